"""Small idx files for tests, written as MNIST's are: a class is a pattern, with noise on it."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def idx_bytes(values: npt.NDArray[np.uint8]) -> bytes:
    """Magic number, lengths, values."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def synthetic(count: int, size: int = 28, classes: int = 10, seed: int = 0) -> tuple[Any, Any]:
    """Images (count, size, size) and labels (count,)."""
    draw = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).integers(0, 156, (classes, size, size))
    labels = np.append(draw.integers(0, classes, count - 1), classes - 1).astype(np.uint8)
    return (patterns[labels] + draw.integers(0, 100, (count, size, size))).astype(np.uint8), labels


def write_images(folder: Path, train: int = 64, test: int = 20, size: int = 28, packed: bool = False) -> Path:
    """The four files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = (*synthetic(train, size, seed=1), *synthetic(test, size, seed=2))
    for name, values in zip(NAMES, arrays, strict=True):
        content = idx_bytes(values)
        file = folder / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(content) if packed else content)
    return folder
