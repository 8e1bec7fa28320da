"""Files that are either wholly there or not there: every write of a result goes through here."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses (permission, disk full, a file where a folder should be) into one line."""
    try:
        yield
    except OSError as problem:
        raise UserError(f"{path}: cannot write: {problem.strerror or problem}") from problem


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it is not there yet."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name, after an fsync, when the block ends well."""
    make_folder(path.parent)
    with writing(path):
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes the whole file or leaves the old one untouched."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut (POSIX: the folder's entry has to reach the disk too)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
