"""Token files as nanoGPT writes them: raw little-endian ids in train.bin and val.bin, mapped, never loaded whole."""

from pathlib import Path

import numpy as np

from hptransfer.data.hashing import unreadable
from hptransfer.data.windows import TokenArray, check_ids
from hptransfer.errors import UserError, did_you_mean

NAMES = {"train": ("train.bin",), "validation": ("val.bin", "validation.bin")}
SAMPLE_BLOCKS, BLOCK_TOKENS = 64, 1 << 14


def find_bins(folder: str) -> dict[str, Path]:
    """The file of each split in `data.path`."""
    given = Path(folder).expanduser()
    try:
        if not given.is_dir():
            siblings = [path.name for path in given.parent.iterdir()] if given.parent.is_dir() else []
            raise UserError(f"data.path: {given}: no such folder{did_you_mean(given.name, siblings)}")
        return {split: _the_one(given, names) for split, names in NAMES.items()}
    except OSError as problem:
        raise unreadable(given, problem) from problem


def _the_one(folder: Path, names: tuple[str, ...]) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        raise UserError(
            f"data.path: {folder}: needs one file named {' or '.join(names)}, has {len(found)}; "
            "`tokens` reads what nanoGPT's prepare.py writes; for text files use data.source: text"
        )
    return found[0]


def map_tokens(path: Path, dtype: str) -> TokenArray:
    """The file as an array in the address space; pages are read when touched."""
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        size = path.stat().st_size
        tokens = np.memmap(path, kind, mode="r", shape=(size // kind.itemsize,)) if size else np.empty(0, kind)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    if size % kind.itemsize:
        raise UserError(
            f"data.dtype: {dtype}, but the {size} bytes of {path} are no multiple of {kind.itemsize}; check dtype"
        )
    return np.asarray(tokens)


def check_sample(tokens: TokenArray, vocab_size: int, path: Path) -> None:
    """Looks at blocks spread over the file (all of a small one) for ids that the vocabulary does not have, and for
    32-bit ids read as 16-bit ones: their upper halves, every second value, are all zero."""
    starts = np.linspace(0, max(0, len(tokens) - BLOCK_TOKENS), SAMPLE_BLOCKS, dtype=np.int64)
    for start in np.unique(starts):
        block = tokens[start : start + BLOCK_TOKENS]
        check_ids(block, vocab_size, str(path))
    odd = tokens[1 : 2 * BLOCK_TOKENS : 2]
    if tokens.dtype.itemsize == 2 and len(tokens) >= BLOCK_TOKENS and not odd.any():
        raise UserError(f"data.dtype: uint16, but every second value of {path} is 0: the file holds uint32")
