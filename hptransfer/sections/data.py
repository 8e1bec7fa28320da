"""The `data` section: one class per source."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, Tag, model_validator

from hptransfer.sections.values import Count, Int, Path, Positive, Section, tagged_by


class _Encoded(Section):
    """Text that becomes tokens here."""

    seq_len: Count = 256
    """Tokens per sequence."""
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocab_size: Annotated[Int, Field(ge=256)] | None = None
    """Size of the BPE vocabulary; bytes have 256."""

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if self.tokenizer == "bpe" and self.vocab_size is None:
            raise ValueError("vocab_size missing: tokenizer bpe needs the size of its vocabulary, e.g. 4096")
        if self.tokenizer == "bytes" and self.vocab_size not in (None, 256):
            raise ValueError(f"vocab_size = {self.vocab_size}; bytes have 256 (or set tokenizer: bpe)")
        return self


class PythonSource(_Encoded):
    """Real text that every machine has: .py files of the standard library and of installed dependencies."""

    source: Literal["python_source"] = "python_source"
    size_mb: Positive = 32.0
    """Megabytes of text taken at most."""


class Text(_Encoded):
    """The user's own text: files, folders, globs; a document is a file."""

    source: Literal["text"] = "text"
    path: Path | Annotated[list[Path], Field(min_length=1)]
    """File, folder or glob, or a list of those."""


class Tokens(Section):
    """Memory-mapped token files as nanoGPT writes them: train.bin and val.bin in a folder."""

    source: Literal["tokens"] = "tokens"
    path: Path
    """The folder."""
    seq_len: Count = 256
    """Tokens per sequence."""
    vocab_size: Count
    """Number of token ids."""
    dtype: Literal["uint16", "uint32"] = "uint16"


class Images(Section):
    """Grey square images with class labels: the four idx files of MNIST, Fashion-MNIST and their like, gzipped or not.
    Where other data counts tokens, an image is one (train.batch_tokens: 64 is 64 images); the 10,000 test images are
    the held-out set."""

    source: Literal["images"] = "images"
    path: Path = "/usr/share/datasets/fashion-mnist"
    """The folder. Default: where Debian's package dataset-fashion-mnist puts them."""
    size: Count = 28
    """Height and width in pixels."""
    classes: Count = 10
    """Number of labels."""
    seq_len: ClassVar[int] = 1
    """In tokens: an image stands alone."""


DataConfig = Annotated[
    Annotated[PythonSource, Tag("python_source")]
    | Annotated[Text, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[Images, Tag("images")],
    tagged_by("source", "python_source"),
]
