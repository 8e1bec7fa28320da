"""From documents to two cached token files: exact duplicates removed, split by a hash of each document's content."""

import hashlib
import math
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hptransfer.data.hashing import Progress, file_hash, sha256_of, unreadable
from hptransfer.errors import UserError
from hptransfer.files import make_folder, writing

VALIDATION_SHARE = 0.05
SEPARATOR = b"\0"
"""Ends every document. Text holds no NUL, so it stands for nothing else."""
SPLITS = ("train", "validation")
META = "meta.json"


@dataclass(frozen=True)
class Document:
    """The bytes [start, end) of a file, read when needed."""

    path: Path
    start: int
    end: int

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.end - self.start)
        except OSError as problem:
            raise unreadable(self.path, problem) from problem


@dataclass(frozen=True)
class Source:
    """Where text comes from: one function that gives its documents, and what to call it."""

    name: str
    """Of its folder in the store."""
    key: str
    """The config key that names it, and"""
    value: str
    """what the config says there: for errors."""
    documents: Callable[[], Iterable[Document]]
    limit: float = math.inf
    """Bytes taken at most."""


class Corpus(BaseModel):
    """What stands in a corpus folder beside its files; `hashes` are their contents (SHA-256)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: Literal["bytes", "bpe"]
    vocab_size: int
    dtype: Literal["uint8", "uint16", "uint32"]
    documents: dict[str, int]
    duplicates: int
    hashes: dict[str, str]


def not_text(data: bytes) -> str | None:
    """Why these bytes are no text, if they are none."""
    if SEPARATOR in data:
        return f"binary (a NUL at byte {data.index(SEPARATOR)})"
    try:
        data.decode()
    except UnicodeDecodeError as problem:
        return f"not UTF-8 (byte {problem.start})"
    return None


def write_bytes_corpus(source: Source, folder: Path, progress: Progress) -> Corpus:
    """Writes train.bin and validation.bin, one byte a token, documents in the order of their content hashes."""
    unique, duplicates = _unique(source, progress)
    splits = _split(dict(_within(sorted(unique.items()), source.limit)), source)
    for split, members in splits.items():
        with (folder / f"{split}.bin").open("wb") as file:
            for document in members:
                file.write(document.read() + SEPARATOR)
    counts = {split: len(members) for split, members in splits.items()}
    return Corpus(
        tokenizer="bytes",
        vocab_size=256,
        dtype="uint8",
        documents=counts,
        duplicates=duplicates,
        hashes=hashes_of(folder),
    )


def hashes_of(folder: Path) -> dict[str, str]:
    """Content hashes of the files of a corpus that has just been written."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def _unique(source: Source, progress: Progress) -> tuple[dict[bytes, Document], int]:
    """Documents by content hash, empty ones left out, and how many were duplicates."""
    unique: dict[bytes, Document] = {}
    duplicates = done = 0
    sized = [document for document in source.documents() if document.end > document.start]
    total = sum(document.end - document.start for document in sized)
    for document in sized:
        data = document.read()
        if reason := not_text(data):
            raise UserError(
                f"data.path: {document.path}: {reason}; give UTF-8 text, e.g. by a glob such as folder/**/*.txt"
            )
        digest = hashlib.sha256(data).digest()
        duplicates += digest in unique
        unique.setdefault(digest, document)
        done += len(data)
        progress("reading text", done, total)
    return unique, duplicates


def _within(documents: Iterable[tuple[bytes, Document]], limit: float) -> Iterator[tuple[bytes, Document]]:
    """Those documents, first come first served, that fit into `limit` bytes together."""
    size = 0
    for digest, document in documents:
        longer = size + document.end - document.start + len(SEPARATOR)
        if longer <= limit:
            size = longer
            yield digest, document


def _split(documents: dict[bytes, Document], source: Source) -> dict[str, list[Document]]:
    """About a twentieth goes to validation, chosen by that end of the hash which the order does not depend on."""
    if len(documents) < 2:
        size = sum(document.end - document.start for document in documents.values())
        raise UserError(
            f"{source.key}: {source.value}: {len(documents)} different documents ({size} bytes of text): "
            "two are needed, one of them for validation; give more text"
        )
    places = {digest: int.from_bytes(digest[-8:], "big") / 2**64 for digest in documents}
    by_place = sorted(documents, key=lambda digest: places[digest])
    held_out = max(1, sum(place < VALIDATION_SHARE for place in places.values()))
    validation = set(by_place[: min(held_out, len(documents) - 1)])
    return {
        "train": [document for digest, document in documents.items() if digest not in validation],
        "validation": [document for digest, document in documents.items() if digest in validation],
    }


def cached(folder: Path, build: Callable[[Path], Corpus]) -> Path:
    """Builds `folder` where it is not there yet, whole or not at all. Of two processes that build it at once the
    slower one throws its own away."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    with writing(folder):
        if folder.exists():
            return folder
        make_folder(folder.parent)
        try:
            temporary.mkdir()
            corpus = build(temporary)
            (temporary / META).write_text(corpus.model_dump_json(indent=1))
            _take_name(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _take_name(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def read_corpus(folder: Path, progress: Progress) -> Corpus:
    """What a corpus folder says of itself, with every file checked against its hash. It is never rebuilt in silence:
    other sources could make it another corpus in the middle of a sweep."""
    try:
        corpus = Corpus.model_validate_json((folder / META).read_bytes())
        damaged = [
            name
            for name, digest in corpus.hashes.items()
            if file_hash(folder / name, folder.parent / "hashes", progress) != digest
        ]
    except OSError as problem:
        raise _damaged(
            folder, f"{Path(problem.filename or META).name} cannot be read ({problem.strerror})"
        ) from problem
    except ValidationError as problem:
        raise _damaged(folder, f"{META} is not what was written") from problem
    if damaged:
        raise _damaged(folder, f"{', '.join(damaged)} changed since it was written")
    return corpus


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(
        f"{folder}: damaged corpus: {why}: delete this folder and it is built again "
        "(where its sources have changed since, as a new corpus: earlier runs then do not count as the same)"
    )
