"""From Verilog to a compiled simulation: Verilator, then the C++ compiler.

Both are called as they are: neither Verilator's wrapper nor the makefiles that it writes work in a folder whose
path has a space in it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import build_cache, toolchain

__all__ = ["Simulation"]

_STANDARD = ("-std=c++17", "-fPIC")
_TIMEOUT = 1200


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A program or a shared library that simulates a design.

    Parameters
    ----------
    top : str
        Name of the top module.
    files : {name: text}
        Verilog (.v) and settings of Verilator (.vlt); others stay beside the result.
    models : sequence of Path
        Further Verilog files.
    main : Path
        The C++ around it. It includes V`top`.h, or what a ``--prefix`` among the flags makes of that.
    output : str
        Name of the file to make; a shared library if it ends in .so.
    flags, cxx_flags, link_flags : sequences of str
        For Verilator, for the compiler, and for the linker.
    defines : sequence of str
        Flags that `main` alone is compiled with.
    level : str
        Optimisation of what runs in each cycle.
    slow_level : str, optional
        Optimisation of what runs once, at the start. Left out, everything is compiled in one piece, which for a
        small design is less work.
    vpi, waves : bool
        Whether the design is reached by name at run time, and whether VCD wave forms can be written.
    """

    top: str
    files: Mapping[str, str]
    main: Path
    output: str
    models: Sequence[Path] = ()
    flags: Sequence[str] = ()
    cxx_flags: Sequence[str] = ()
    link_flags: Sequence[str] = ()
    defines: Sequence[str] = ()
    level: str = "-O1"
    slow_level: str | None = None
    vpi: bool = False
    waves: bool = False

    def build(self, folder: Path, name: str = "") -> Path:
        """`output`, in a folder of its own in `folder`; built if it is not there.

        That folder's name is `name` and a hash of all that the result depends on.

        Raises
        ------
        ToolError
            Verilator or the compiler failed or is missing.
        BuildFolderError
            It is not there, and nothing can be written to `folder`.
        """
        key = build_cache.content_hash(
            _version(), dict(self.files), self.main, *self.models, self.top, self.output, list(self.flags),
            list(self.cxx_flags), list(self.link_flags), list(self.defines), self.level, self.slow_level, self.vpi,
            self.waves, list(_STANDARD))
        target = folder / f"{name}{'-' if name else ''}{key}"
        log = target.with_name(f"{target.name}.log")
        return build_cache.cached(target, partial(self._make, log)) / self.output

    def _make(self, log: Path, work: Path) -> None:
        for name, text in self.files.items():
            (work / name).write_text(text, encoding="utf-8")
        shutil.copy(self.main, work / "main.cpp")
        self._verilate(work, log)
        sources = [*sorted(f"obj/{path.name}" for path in (work / "obj").glob("*.cpp")), "main.cpp"]
        if self.slow_level is None:
            everything = "".join(f'#include "{source}"\n' for source in sources)
            (work / "all.cpp").write_text(everything, encoding="utf-8")
            sources = ["all.cpp"]
        with toolchain.workers(2) as pool:
            library = pool.map(self._library_part, self._library())
            objects: list[str | Path] = [*pool.map(partial(self._compile, work), sources), *library]
        shared = ["-shared"] if self.output.endswith(".so") else []
        _cxx(work, *shared, "-o", self.output, *objects, *self.link_flags, "-lpthread")
        for path in [*work.glob("*.o"), *(work / "obj").glob("*.o")]:
            path.unlink()

    def _verilate(self, work: Path, log: Path) -> None:
        verilog = [name for name in self.files if name.endswith((".v", ".vlt"))]
        flags = [*self.flags, *(["--vpi"] if self.vpi else []), *(["--trace-vcd"] if self.waves else [])]
        toolchain.run(["verilator_bin", "--cc", *flags, "--Mdir", "obj", "--top-module", self.top, *verilog,
                       *self.models], cwd=work, log=log, timeout=_TIMEOUT)

    def _compile(self, work: Path, source: str) -> str:
        target = str(Path(source).with_suffix(".o"))
        level = self.slow_level if self.slow_level and "Slow" in source else self.level
        defines = self.defines if source in ("main.cpp", "all.cpp") else ()
        _cxx(work, *self._flags(level), *defines, "-Iobj", "-include", self._header(level), "-c", source, "-o",
             target)
        return target

    def _flags(self, level: str) -> list[str | Path]:
        return [*_STANDARD, *self.cxx_flags, level, f"-DVM_TRACE={int(self.waves)}",
                f"-DVM_TRACE_VCD={int(self.waves)}", "-DVM_COVERAGE=0", *_include()]

    def _header(self, level: str) -> Path:
        """Verilator's own headers, compiled: to read them is more work than most files are that include them."""
        names = ["verilated.h", *(["verilated_vpi.h"] if self.vpi else [])]

        def make(work: Path) -> None:
            text = "".join(f'#include "{name}"\n' for name in names)
            (work / "runtime.h").write_text(text, encoding="utf-8")
            _cxx(work, *self._flags(level), "-x", "c++-header", "runtime.h", "-o", "runtime.h.gch")

        # A compiler passes over what another one made.
        compiler = toolchain.run(["g++", "--version"], timeout=60)
        return _shared("header", make, [compiler, *names], self._flags(level)) / "runtime.h"

    def _library(self) -> list[str]:
        """The parts of Verilator's own library that the result needs."""
        return ["verilated", "verilated_threads", *(["verilated_vpi"] if self.vpi else []),
                *(["verilated_vcd_c"] if self.waves else [])]

    def _library_part(self, part: str) -> Path:
        """One of them, compiled: the same for every design, and more work than most designs are."""
        flags = (*_STANDARD, *self.cxx_flags, "-O2", "-DVM_TRACE=0", "-DVM_COVERAGE=0", *_include())

        def make(work: Path) -> None:
            _cxx(work, *flags, "-c", _include_folder() / f"{part}.cpp", "-o", f"{part}.o")

        return _shared(part, make, flags) / f"{part}.o"


def _shared(name: str, make: Callable[[Path], None], *parts: Sequence[str | Path]) -> Path:
    """A folder of what all designs share, made if it is not there; `parts` is what it depends on."""
    key = build_cache.content_hash(_version(), name, [[str(item) for item in part] for part in parts])
    return build_cache.cached(build_cache.build_root() / "verilator" / f"{name}-{key}", make)


def _version() -> str:
    # Not the compiler's: who has the result needs none.
    return toolchain.run(["verilator_bin", "--version"], timeout=60)


def _include_folder() -> Path:
    return Path(toolchain.environment()["VERILATOR_ROOT"]) / "include"


def _include() -> list[str | Path]:
    return ["-I", _include_folder(), "-I", _include_folder() / "vltstd"]


def _cxx(work: Path, *arguments: str | Path) -> None:
    # Its temporary files go when the folder goes, whatever ends it.
    toolchain.run(["g++", *arguments], cwd=work, timeout=_TIMEOUT, env={"TMPDIR": str(work)})
