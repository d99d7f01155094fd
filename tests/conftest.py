"""The order of the tests."""


def pytest_collection_modifyitems(items):
    """What takes minutes in one piece begins first, lest one worker ends long after the other."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)
