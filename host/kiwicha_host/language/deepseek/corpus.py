"""The text that the model learns from: the topics of Python's own `help`, which come with Python.

The text is of the Python Software Foundation, under its license (version 2). Another version of Python has
slightly other topics.
"""

from pydoc_data import topics

__all__ = ["END", "HELD_OUT", "texts"]

#: What is between two topics, and begins each.
END = "<|end|>"
#: Topics that the model is not trained on, some 5 % of the text.
HELD_OUT = ("assert", "calls", "execmodel", "raise", "slicings")


def texts() -> tuple[list[str], list[str]]:
    """The topics to train on and those that are held out.

    Topics repeat paragraphs of each other: each stays where it is first, and those of a held-out topic only there.
    """
    seen: set[str] = set()
    held_out = [_without(topics.topics[name], seen) for name in HELD_OUT]
    training = [_without(text, seen) for name, text in sorted(topics.topics.items()) if name not in HELD_OUT]
    return [text for text in training if text], held_out


def _without(text: str, seen: set[str]) -> str:
    """`text` without the paragraphs in `seen`, which its own ones join."""
    paragraphs = [each for each in text.strip().split("\n\n") if each not in seen]
    seen.update(paragraphs)
    return "\n\n".join(paragraphs)
