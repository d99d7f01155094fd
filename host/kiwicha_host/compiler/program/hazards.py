"""What has to wait for what, by what each instruction reads and writes."""

from collections.abc import Hashable, Iterable, Iterator

__all__ = ["Hazards"]


class Hazards:
    """Told of instructions in an order that is right: a read follows the buffer's last writer, a write its last
    writer and the readers since.
    """

    def __init__(self) -> None:
        self._writer: dict[Hashable, int] = {}
        self._readers: dict[Hashable, list[int]] = {}

    def add(self, index: int, reads: Iterable[Hashable], writes: Iterable[Hashable]) -> Iterator[tuple[int, bool]]:
        """Instruction number `index`, whose buffers have these keys: which earlier ones it follows, some more than
        once, and whether it reads what they have written.
        """
        for key in reads:
            if key in self._writer:
                yield self._writer[key], True
            self._readers.setdefault(key, []).append(index)
        for key in writes:
            if self._writer.get(key, index) != index:
                yield self._writer[key], False
            yield from ((reader, False) for reader in self._readers.pop(key, ()) if reader != index)
            self._writer[key] = index
