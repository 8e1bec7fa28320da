"""Deterministic data: `open_data` makes of a config's `data` section batches that depend on (seed, step) alone."""

import hashlib
from functools import partial
from pathlib import Path

from hptransfer.data.bpe import write_bpe_corpus
from hptransfer.data.corpus import Corpus, Source, cached, read_corpus, write_bytes_corpus
from hptransfer.data.hashing import Progress, file_hash, quiet
from hptransfer.data.images import LabelledImages, open_images
from hptransfer.data.python_files import python_source
from hptransfer.data.text import text_source
from hptransfer.data.token_files import check_sample, find_bins, map_tokens
from hptransfer.data.windows import Batch, Windows
from hptransfer.sections import DataConfig, Images, PythonSource, Text, Tokens

__all__ = ["Batch", "Data", "Progress", "open_data"]

Data = Windows | LabelledImages


def open_data(config: DataConfig, runs: Path, progress: Progress | None = None) -> Data:
    """The tokens or images that a config names; what has to be built is built once and kept in the folder `runs`/data.

    `progress(what, bytes done, bytes in all)` is told of long work. UserError: sources missing, unreadable, no text
    or too short; a damaged corpus; a runs folder that cannot be written.
    """
    store, tell = runs / "data", progress or quiet
    match config:
        case Images():
            return open_images(config, store, tell)
        case Tokens():
            return _open_tokens(config, store, tell)
        case Text():
            return _open_corpus(config, text_source(config.path), store, tell)
        case PythonSource():
            return _open_corpus(config, python_source(config.size_mb), store, tell)


def _open_tokens(config: Tokens, store: Path, progress: Progress) -> Windows:
    files = find_bins(config.path)
    splits = {split: map_tokens(path, config.dtype) for split, path in files.items()}
    for split, tokens in splits.items():
        check_sample(tokens, config.vocab_size, files[split])
    hashes = {split: file_hash(path, store / "hashes", progress) for split, path in files.items()}
    return Windows(
        train=splits["train"],
        held_out=splits["validation"],
        vocab_size=config.vocab_size,
        seq_len=config.seq_len,
        fingerprint=_fingerprint(config.dtype, hashes["train"], hashes["validation"], "tokenizer unknown"),
        origin=f"data.path {config.path}",
    )


def _open_corpus(config: PythonSource | Text, source: Source, store: Path, progress: Progress) -> Windows:
    folder = _built(config, source, store, progress)
    corpus = read_corpus(folder, progress)
    hashes = corpus.hashes
    tokenizer = hashes.get("tokenizer.json", "bytes")
    return Windows(
        train=map_tokens(folder / "train.bin", corpus.dtype),
        held_out=map_tokens(folder / "validation.bin", corpus.dtype),
        vocab_size=corpus.vocab_size,
        seq_len=config.seq_len,
        fingerprint=_fingerprint(corpus.dtype, hashes["train.bin"], hashes["validation.bin"], tokenizer),
        origin=f"{source.key} {source.value}",
    )


def _built(config: PythonSource | Text, source: Source, store: Path, progress: Progress) -> Path:
    """The folder of the corpus in the tokens asked for. A BPE corpus is made from the byte corpus, which stays."""
    text = store / source.name
    write_text = partial(write_bytes_corpus, source, progress=progress)
    if config.tokenizer == "bytes":
        return cached(text, write_text)
    assert config.vocab_size is not None
    size = config.vocab_size

    def write_bpe(folder: Path) -> Corpus:
        return write_bpe_corpus(cached(text, write_text), size, folder, progress)

    return cached(store / f"{source.name}-bpe{size}", write_bpe)


def _fingerprint(dtype: str, train: str, validation: str, tokenizer: str) -> str:
    """Names the content: both token streams and the tokenizer, wherever they lie."""
    return hashlib.sha256(" ".join((dtype, train, validation, tokenizer)).encode()).hexdigest()
