"""Block-scaled GEMMs on the compiled chip against the definition, bit by bit, for every pair of formats.

``python -m bench.campaign --elements 100000`` (``make campaign``) fails if one bit differs anywhere.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click
import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import BLOCKS, FORMATS
from kiwicha_host.devices import Device, open_device
from kiwicha_host.golden import gemm_block
from kiwicha_host.operands import FORMATS as TYPES

__all__ = ["Case", "cases", "differing_bits", "random_elements", "random_scales"]

#: Exponents of the scales: ordinary; so small that results are subnormal or zero; so large that they overflow.
_SCALES = ((127, 12), (72, 12), (64, 6), (170, 10), (127, 127))


def random_elements(rng: np.random.Generator, shape: tuple[int, ...], name: str, nan: float = 0.0) -> np.ndarray:
    """Any codes of a format; those of E4M3 that are NaN stay with probability `nan`."""
    codes = rng.integers(0, 1 << FORMATS[name].bits, shape).astype(np.uint8)
    if name == "e4m3":
        codes[((codes & 127) == 127) & (rng.random(shape) >= nan)] ^= 1
    if name == "int4":
        return (codes.astype(np.int8) - 8).astype(TYPES[name])
    return codes.view(TYPES[name])


def random_scales(rng: np.random.Generator, shape: tuple[int, ...], nan: float = 0.0) -> np.ndarray:
    """E8M0 codes around one of several exponents; NaN with probability `nan`."""
    centre, spread = _SCALES[rng.integers(len(_SCALES))]
    codes = np.clip(rng.integers(centre - spread, centre + spread + 1, shape), 0, 254).astype(np.uint8)
    codes[rng.random(shape) < nan] = 255
    return codes


@dataclass(frozen=True)
class Case:
    """One GEMM's operands."""
    a: np.ndarray
    b: np.ndarray
    block: int
    a_scale: np.ndarray
    b_scale: np.ndarray


def cases(rng: np.random.Generator, a_format: str, b_format: str, elements: int, longest: int,
          blocks: tuple[int, ...] = BLOCKS) -> Iterator[Case]:
    """GEMMs of at least `elements` results in all, K up to `longest`, often short; NaN in some."""
    left = elements
    while left > 0:
        m, n = (int(size) for size in rng.integers(1, (96, 96)))
        k = int(2 ** rng.uniform(0, np.log2(longest + 0.999)))
        block = int(rng.choice(blocks))
        groups, nan = -(-k // block), float(rng.choice((0, 0, 0.002)))
        columns = n if rng.random() < 0.7 else -(-n // block)
        yield Case(random_elements(rng, (m, k), a_format, nan), random_elements(rng, (k, n), b_format, nan), block,
                   random_scales(rng, (m, groups), nan), random_scales(rng, (groups, columns), nan))
        left -= m * n


def differing_bits(device: Device, case: Case) -> int:
    """Bits in which the device's result is not what the definition says."""
    scales = {"a_scale": case.a_scale, "b_scale": case.b_scale}
    got = device.gemm(case.a, case.b, block=case.block, **scales)
    want = gemm_block(case.a, case.b, case.a_scale, case.b_scale, case.block)
    return int(np.bitwise_count(got.view(np.uint32) ^ want.view(np.uint32)).sum())


@click.command()
@click.option("--elements", default=100_000, show_default=True, help="Results per ordered pair of formats.")
@click.option("--longest", default=4096, show_default=True, help="Longest K.")
@click.option("--config", default="wide", show_default=True, metavar="NAME|FILE.toml")
@click.option("--seed", default=1, show_default=True)
def main(elements: int, longest: int, config: str, seed: int) -> None:
    """Compare the compiled chip with the definition over all pairs of its formats."""
    from rich.progress import track

    chip = ChipConfig.load(config)
    pairs = list(itertools.product(chip.formats, repeat=2))
    total = wrong = 0
    with open_device("verilated", config=chip) as device:
        for a_format, b_format in track(pairs, description=f"{config}, seed {seed}"):
            rng = np.random.default_rng([seed, *(FORMATS[name].code.value for name in (a_format, b_format))])
            for case in cases(rng, a_format, b_format, elements, longest):
                bits = differing_bits(device, case)
                total += case.a.shape[0] * case.b.shape[1]
                wrong += bits
                if bits:
                    print(f"{a_format} x {b_format}, {case.a.shape[0]}x{case.b.shape[1]}x{case.a.shape[1]}, block "
                          f"{case.block}: {bits} bits differ")
    print(f"{len(pairs)} pairs of formats, {total:,} results, {wrong} differing bits")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
