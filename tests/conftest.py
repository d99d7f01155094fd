"""The order of the tests, what they cost in processor time, and the command that several of them call."""

import resource
import zlib
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
from commands import K, M, N

from kiwicha_host import devices
from kiwicha_host.cli import commands as cli
from kiwicha_host.compiler.lower.gemm import compiled


def pytest_collection_modifyitems(items):
    """What takes minutes in one piece begins first, lest one worker ends long after the other."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


def pytest_addoption(parser):
    parser.addoption("--dearest", type=int, default=0, metavar="N",
                     help="list the N files and the N tests that took the most CPU time, with the tools they ran")


def pytest_configure(config):
    config.pluginmanager.register(_Cost(config.getoption("--dearest")))


class _Cost:
    """CPU seconds, user and system, by test; those of a build go to the test that came first.

    Wall-clock time says little beside other work or with several workers. With workers, each measures its own
    tests and the session adds them up: a report takes its attribute `cpu_s` along.
    """

    def __init__(self, dearest):
        self._dearest = dearest
        self._tests = Counter()
        self._mark = 0.0

    def pytest_runtest_logstart(self):
        self._mark = _cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = _cpu_seconds()
        report.cpu_s, self._mark = now - self._mark, now
        return report

    def pytest_runtest_logreport(self, report):
        # A worker that has crashed has not said.
        self._tests[report.nodeid] += getattr(report, "cpu_s", 0)

    def pytest_terminal_summary(self, terminalreporter):
        files, counts = Counter(), defaultdict(int)
        for test, seconds in self._tests.items():
            file = test.partition("::")[0]
            files[file] += seconds
            counts[file] += 1
        write = terminalreporter.write_line
        if self._dearest:
            terminalreporter.section("CPU seconds")
            for file, seconds in files.most_common(self._dearest):
                write(f"{seconds:8.1f}  {file} ({counts[file]} tests)")
            for test, seconds in self._tests.most_common(self._dearest):
                write(f"{seconds:8.1f}  {test}")
        # The workers have ended: this is everything, their starts and imports included.
        write(f"CPU time: {_cpu_seconds() / 60:.1f} minutes, of which in tests {files.total() / 60:.1f}")


def _cpu_seconds():
    """Used so far by this process and by all whose end it has waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Calls the command in an empty folder with good A and B; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("a.npy", rng.integers(-128, 128, (M, K), np.int8))
    np.save("b.npy", rng.integers(-128, 128, (K, N), np.int8))

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(item) for item in arguments])
        out, err = capfd.readouterr()
        return caught.value.code, out, err
    return call


@pytest.fixture
def no_device(monkeypatch):
    """Wrong input must be found before a device is opened: that may take a minute."""
    monkeypatch.setattr(devices, "open_device", lambda *a, **k: pytest.fail("a device was opened"))


@pytest.fixture
def any_tiling(monkeypatch):
    """GEMMs take any of their ten most promising tilings, not the fastest, which takes the cycle model a second.

    For tests of what is computed, which no tiling changes. It is another one for each program, always the same.
    """
    def one(config, candidates, memory_latency):
        first = next(candidates)
        number = zlib.crc32(first.program) % 10
        return next(islice(candidates, number - 1, None), first) if number else first

    compiled._compile.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "fastest", one)
        yield
    compiled._compile.cache_clear()
