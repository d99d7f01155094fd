"""What the name of an ECP5 says: device, speed and package, and how nextpnr wants to hear them."""

import re
from dataclasses import dataclass

__all__ = ["Part"]

_NAME = re.compile(r"(LFE5(U|UM|UM5G)-(12|25|45|85)F)-([6-8])((?:BG|MG)\d{3})[CI]?")


@dataclass(frozen=True)
class Part:
    """One ECP5, from its order number.

    Parameters
    ----------
    name : str
        Such as "LFE5U-85F-6BG381C": device, speed grade, package and temperature range.

    Attributes
    ----------
    device, speed, package : str
        "LFE5U-85F", "6" and "BG381", as Amaranth's platforms have them.

    Raises
    ------
    ValueError
        The name is no ECP5's.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"part must be an ECP5 such as LFE5U-85F-6BG381C, not {self.name!r}")

    def _group(self, number: int) -> str:
        match = _NAME.fullmatch(self.name)
        assert match is not None
        return match[number]

    @property
    def device(self) -> str:
        return self._group(1)

    @property
    def speed(self) -> str:
        return self._group(4)

    @property
    def package(self) -> str:
        return self._group(5)

    @property
    def nextpnr_options(self) -> list[str]:
        """The command line's options for this part."""
        series = {"U": "", "UM": "um-", "UM5G": "um5g-"}[self._group(2)]
        package = self.package.replace("BG", "CABGA").replace("MG", "CSFBGA")
        return [f"--{series}{self._group(3)}k", "--package", package, "--speed", self.speed]
