"""The user's own text: files, folders and globs as documents."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hptransfer.data.corpus import VALIDATION_SHARE, Document, Source
from hptransfer.data.hashing import unreadable
from hptransfer.errors import UserError, did_you_mean

SMALL_FILE = 1 << 16
PIECE_SHARE = VALIDATION_SHARE / 20
SMALLEST_PIECE = 1 << 10
BOUNDARIES = tuple(re.compile(pattern) for pattern in (rb"\n\r?\n", rb"\n", rb"(?=[^\x80-\xbf])"))
"""Where a file may be cut, best first: a blank line, a line's end, the start of a UTF-8 character."""


def text_source(paths: str | Sequence[str]) -> Source:
    """The files as they are at this moment: when one has been written since, the corpus is another one."""
    files = find_files(paths)
    shown = paths if isinstance(paths, str) else ", ".join(paths)
    return Source(f"text-{listing_hash(files)[:16]}", "data.path", shown, lambda: text_documents(files))


def find_files(paths: str | Sequence[str]) -> list[Path]:
    """All files that `data.path` names, each once, in the order of their paths."""
    entries = [paths] if isinstance(paths, str) else paths
    files = sorted({file.resolve() for entry in entries for file in _named_by(entry)})
    for odd in (file for file in files if not file.is_file()):
        raise UserError(f"data.path: {odd}: not a file (a broken link, a pipe, a device?)")
    return files


def listing_hash(files: Sequence[Path]) -> str:
    """Hash of where the files are, how long they are and when they were written: it tells when to read them again."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def text_documents(files: Sequence[Path]) -> list[Document]:
    """A file is a document. One that is too large a share of the text to be held out whole is cut into pieces."""
    sizes = {path: path.stat().st_size for path in files}
    total = sum(sizes.values())
    whole = max(VALIDATION_SHARE * total, SMALL_FILE if len(files) > 1 else 0)
    piece = max(int(PIECE_SHARE * total), SMALLEST_PIECE)
    return [
        document
        for path, size in sizes.items()
        for document in ([Document(path, 0, size)] if size <= whole else _pieces(path, size, piece))
    ]


def _pieces(path: Path, size: int, piece: int) -> Iterator[Document]:
    """The file in parts of `piece` bytes up to twice that, cut at the first good boundary."""
    start = 0
    while size - start > 2 * piece:
        window = Document(path, start + piece, start + 2 * piece).read()
        matches = (boundary.search(window) for boundary in BOUNDARIES)
        end = start + piece + next((match.end() for match in matches if match), 0)
        yield Document(path, start, end)
        start = end
    yield Document(path, start, size)


def _named_by(entry: str) -> list[Path]:
    """The files of one entry of `data.path`: a file, the visible files below a folder, or a glob's matches."""
    given = Path(entry).expanduser()
    try:
        if given.is_file():
            return [given]
        if given.is_dir():
            return list(_below(given))
        return _matching(given)
    except OSError as problem:
        raise unreadable(given, problem) from problem


def _below(folder: Path) -> Iterator[Path]:
    def refuse(problem: OSError) -> None:
        raise problem

    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _matching(pattern: Path) -> list[Path]:
    matches = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    if files := [path for path in matches if path.is_file()]:
        return files
    siblings = [path.name for path in pattern.parent.iterdir()] if pattern.parent.is_dir() else []
    raise UserError(f"data.path: {pattern}: no file, folder or glob matches{did_you_mean(pattern.name, siblings)}")
