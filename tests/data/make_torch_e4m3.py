"""PyTorch's casts from float32 to float8_e4m3fn, as ``torch_e4m3.npz``: python tests/data/make_torch_e4m3.py

PyTorch is no dependency of this project: install it elsewhere (the file here is of 2.13.0 for CPUs). It clamps
to +-448 first, because not every version's cast saturates.
"""

from pathlib import Path

import numpy as np
import torch


def inputs() -> np.ndarray:
    """Each finite value, each middle between neighbours, and their float32 neighbours; both signs."""
    values = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    middles = (values[1:] + values[:-1]) / 2        # exact: 5 significant bits
    points = np.concatenate([values, middles, [2 ** -126, 2 ** -149, 464, 465, 480, 1e6, 3e38, np.inf]])
    points = points.astype(np.float32)
    around = [np.nextafter(points, np.float32(to), dtype=np.float32) for to in (-np.inf, np.inf)]
    points = np.unique(np.concatenate([points, *around]))
    return np.concatenate([points, -points])


def main() -> None:
    x = inputs()
    codes = torch.from_numpy(x).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.savez_compressed(Path(__file__).with_name("torch_e4m3.npz"), x=x, codes=codes)


if __name__ == "__main__":
    main()
