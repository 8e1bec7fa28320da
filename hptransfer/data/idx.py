"""Strict reading of idx files, the format of MNIST (yann.lecun.com/exdb/mnist): a big-endian header (0, 0, type, number
of axes, the length of each axis), then the values. Those in .gz are unpacked once and mapped like the others."""

import gzip
import hashlib
import zlib
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hptransfer.data.hashing import Progress, file_hash, sha256_of, unreadable
from hptransfer.errors import UserError, did_you_mean
from hptransfer.files import write_atomic

Bytes = npt.NDArray[np.uint8]
UNSIGNED_BYTES = 8
"""The header's number for the type of the values."""
HOW_TO_GET = "apt-get install dataset-fashion-mnist, or data.path: a folder with such files"


def find_idx(folder: str, name: str) -> Path:
    """`name`, e.g. train-images-idx3-ubyte, in the folder `data.path`; else `name`.gz."""
    given = Path(folder).expanduser()
    try:
        if not given.is_dir():
            siblings = [path.name for path in given.parent.iterdir()] if given.parent.is_dir() else []
            raise UserError(f"data.path: {given}: no such folder{did_you_mean(given.name, siblings)}; {HOW_TO_GET}")
        for path in (given / name, given / f"{name}.gz"):
            if path.is_file():
                return path
    except OSError as problem:
        raise unreadable(given, problem) from problem
    raise UserError(f"data.path: {given} has neither {name} nor {name}.gz; {HOW_TO_GET}")


def read_idx(path: Path, axes: int, store: Path, progress: Progress) -> tuple[Bytes, str]:
    """The file's values, mapped, and the hash of its unpacked content; UserError that names it where it is damaged."""
    try:
        plain = _unpacked(path, store / "images", progress) if path.suffix == ".gz" else path
        return _mapped(plain, path, axes), file_hash(plain, store / "hashes", progress)
    except OSError as problem:
        raise unreadable(path, problem) from problem


def _unpacked(path: Path, folder: Path, progress: Progress) -> Path:
    """The unpacked file, named by the hashes of the .gz and of its content, which has to be the one it had."""
    packed = sha256_of(path, progress)[:16]
    for known in folder.glob(f"{packed}-*.idx"):
        if sha256_of(known)[:16] != known.stem.partition("-")[2]:
            raise UserError(f"{known}: changed since it was unpacked from {path}: delete it and it is unpacked again")
        return known
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise UserError(f"data.path: {path}: damaged: {problem}") from problem
    unpacked = folder / f"{packed}-{hashlib.sha256(content).hexdigest()[:16]}.idx"
    write_atomic(unpacked, content)
    return unpacked


def _mapped(plain: Path, path: Path, axes: int) -> Bytes:
    """The values of the file `plain`; errors call it `path`."""
    start, size = 4 + 4 * axes, plain.stat().st_size
    with plain.open("rb") as file:
        header = file.read(start)
    magic = bytes((0, 0, UNSIGNED_BYTES, axes))
    if header[:4] != magic or len(header) < start:
        raise UserError(
            f"data.path: {path}: no idx file of bytes with {axes} axes: it begins with {header[:4].hex()}, "
            f"expected {magic.hex()} and {axes} lengths"
        )
    lengths = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4))
    if size != start + prod(lengths) or size == start:
        shown = " x ".join(map(str, lengths))
        raise UserError(f"data.path: {path}: damaged: {size - start} bytes of values where its header says {shown}")
    return np.asarray(np.memmap(plain, np.uint8, mode="r", offset=start, shape=lengths))
