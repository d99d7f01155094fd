"""Matrix products, each against numpy."""

import numpy as np
from rich.console import Console
from rich.table import Table

from ...devices import Device
from .checks import check
from .figures import figures

__all__ = ["GEMMS", "show_products"]

#: M, N and K.
GEMMS = ((1, 1, 1), (3, 5, 7), (64, 64, 64), (512, 512, 512))


def show_products(console: Console, device: Device) -> None:
    """Multiply random matrices of all sizes of `GEMMS`."""
    console.print("\n[bold]Matrix products[/], int8 x int8 to int32, each against numpy")
    rng = np.random.default_rng(1)
    table = Table("M x N x K", "result", "cycles", "utilization", "simulated cycles/s")
    for m, n, k in GEMMS:
        a, b = (rng.integers(-128, 128, shape, np.int8) for shape in ((m, k), (k, n)))
        c = device.gemm(a, b)
        # float64 holds every sum of these exactly, and is much faster in numpy.
        check("numpy", {"sums": (a.astype(np.float64) @ b).astype(np.int64)}, {"sums": c})
        result = device.last_result
        assert result is not None
        table.add_row(f"{m} x {n} x {k}", "exact", *figures(device.config, result, m * n * k))
    console.print(table)
