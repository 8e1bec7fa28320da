"""The content hash of a file: what names data, wherever it lies and whenever it was written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from hptransfer.errors import UserError
from hptransfer.files import write_atomic

Progress = Callable[[str, int, int], None]
"""progress(what, bytes done, bytes in all), called now and then during long work."""

REMEMBERED_FROM = 1 << 26
"""Bytes (64 MiB, some 50 ms of SHA-256) from which a file's hash is remembered instead of taken again."""
BLOCK = 1 << 24


def quiet(what: str, done: int, total: int) -> None:
    """The progress of those who do not ask for it."""


def file_hash(path: Path, memory: Path, progress: Progress = quiet) -> str:
    """SHA-256 of a file. That of a huge file is kept in the folder `memory` under the file's path, size and mtime."""
    stat = path.stat()
    if stat.st_size < REMEMBERED_FROM:
        return sha256_of(path)
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    remembered = memory / f"{key}.txt"
    if remembered.is_file():
        return remembered.read_text()
    fresh = sha256_of(path, progress)
    write_atomic(remembered, fresh)
    return fresh


def sha256_of(path: Path, progress: Progress = quiet) -> str:
    """SHA-256 of a file, read block by block."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"hashing {path.name}", done, size)
    return digest.hexdigest()


def unreadable(path: Path, problem: OSError) -> UserError:
    """The line for a source that the file system refuses."""
    return UserError(f"data.path: {path}: cannot read: {problem.strerror or problem}")
