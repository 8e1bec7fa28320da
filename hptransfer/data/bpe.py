"""A byte-level BPE, trained on the training documents of a byte corpus alone."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hptransfer.data.corpus import SEPARATOR, SPLITS, Corpus, hashes_of, read_corpus
from hptransfer.data.hashing import Progress
from hptransfer.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 1 << 22
DOCUMENTS_AT_ONCE = 256


def write_bpe_corpus(text: Path, vocab_size: int, folder: Path, progress: Progress) -> Corpus:
    """Writes tokenizer.json and the tokens of the byte corpus in the folder `text`."""
    parent = read_corpus(text, progress)
    tokenizer = _train(_documents(text / "train.bin", "training the tokenizer", progress), vocab_size)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    dtype: Literal["uint16", "uint32"] = "uint16" if vocab_size <= 1 << 16 else "uint32"
    stored = np.dtype(dtype).newbyteorder("<")
    for split in SPLITS:
        documents = _documents(text / f"{split}.bin", f"encoding {split}", progress)
        with (folder / f"{split}.bin").open("wb") as file:
            for ids in _encode(tokenizer, documents):
                file.write(np.array(ids, stored).tobytes())
    return parent.model_copy(
        update={"tokenizer": "bpe", "vocab_size": vocab_size, "dtype": dtype, "hashes": hashes_of(folder)}
    )


def _train(documents: Iterable[str], vocab_size: int) -> "Tokenizer":
    """GPT-2's pre-tokenization (Radford et al. 2019) over all 256 bytes, so that no text is out of vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    if (reached := tokenizer.get_vocab_size()) != vocab_size:
        raise UserError(
            f"data.vocab_size: {vocab_size}; allowed with this text: {len(alphabet)} to {max(reached, len(alphabet))}"
        )
    return tokenizer


def _encode(tokenizer: "Tokenizer", documents: Iterator[str]) -> Iterator[list[int]]:
    """Token ids of each document, ended by the id of the separator's byte."""
    separator = tokenizer.encode(SEPARATOR.decode()).ids
    while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
        for encoding in tokenizer.encode_batch(some):
            yield encoding.ids + separator


def _documents(path: Path, what: str, progress: Progress) -> Iterator[str]:
    """The documents of a byte corpus file, read block by block."""
    size, done, rest = path.stat().st_size, 0, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            *whole, rest = (rest + block).split(SEPARATOR)
            yield from (document.decode() for document in whole)
            done += len(block)
            progress(what, done, size)
