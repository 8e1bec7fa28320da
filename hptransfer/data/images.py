"""Batches of images with labels, as pure functions of (seed, step)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hptransfer.data.hashing import Progress
from hptransfer.data.idx import Bytes, find_idx, read_idx
from hptransfer.data.windows import Batch
from hptransfer.errors import UserError
from hptransfer.sections import Images

PREFIXES = ("train", "t10k")
"""The beginning of the names of each split's files: the split that is trained on, then the one that is held out."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Two mapped sets of images (count, size, size) with labels (count,). An image is a sequence of one token."""

    train: tuple[Bytes, Bytes]
    held_out: tuple[Bytes, Bytes]
    classes: int
    fingerprint: str
    origin: str

    @property
    def vocab_size(self) -> int:
        return self.classes

    @property
    def train_tokens(self) -> int:
        return len(self.train[1])

    @property
    def validation_sequences(self) -> int:
        """How many images there are to validate on."""
        return len(self.held_out[1])

    def batch(self, seed: int, step: int, sequences: int) -> Batch:
        """Images number step * sequences and on of an endless stream: the train split, shuffled anew every epoch."""
        places = step * sequences + np.arange(sequences)
        epochs, within = places // self.train_tokens, places % self.train_tokens
        chosen = np.empty(sequences, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = _shuffled(seed, int(epoch), self.train_tokens)[within[here]]
        return self._take(self.train, chosen)

    def validation(self, sequences: int) -> Batch:
        """A fixed set of images, spread evenly over the validation split."""
        available = self.validation_sequences
        if sequences > available:
            raise UserError(f"train.eval_tokens: {sequences}, but {self.origin} holds {available} test images")
        return self._take(self.held_out, np.arange(sequences) * available // sequences)

    @cached_property
    def _moments(self) -> tuple[np.float32, np.float32]:
        """Mean and standard deviation over all pixels of the train split, from exact counts."""
        blocks = np.array_split(self.train[0], max(1, self.train[0].size >> 20))
        counts = sum(np.bincount(block.ravel(), minlength=256) for block in blocks)
        levels = np.arange(256)
        mean = float(counts @ levels) / self.train[0].size
        variance = float(counts @ (levels - mean) ** 2) / self.train[0].size
        return np.float32(mean), np.float32(np.sqrt(variance) or 1.0)

    def _take(self, split: tuple[Bytes, Bytes], chosen: npt.NDArray[np.int64]) -> Batch:
        """The images at mean 0 and variance 1 over the train split."""
        mean, deviation = self._moments
        images = (split[0][chosen][:, np.newaxis] - mean) / deviation
        return images, split[1][chosen].astype(np.int64)


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The order of an epoch, from the raw stream of the counter-based Philox as in windows.py."""
    raw = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(raw, kind="stable")


def open_images(config: Images, store: Path, progress: Progress) -> LabelledImages:
    """The images of a folder, each split's images and labels checked against each other and against the config."""
    splits, hashes = {}, []
    for prefix in PREFIXES:
        path, labels_path = (find_idx(config.path, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        images, content = read_idx(path, 3, store, progress)
        labels, labels_content = read_idx(labels_path, 1, store, progress)
        if images.shape[1:] != (config.size, config.size):
            raise UserError(
                f"data.size: {config.size}, but the images in {path} are {images.shape[1]} x {images.shape[2]}"
            )
        if len(images) != len(labels):
            raise UserError(f"data.path: {labels_path} has {len(labels)} labels for the {len(images)} images of {path}")
        if (largest := int(labels.max())) >= config.classes:
            raise UserError(f"data.classes: {config.classes}, but {labels_path} holds the label {largest}")
        splits[prefix] = (images, labels)
        hashes += [content, labels_content]
    train, held_out = splits.values()
    fingerprint = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return LabelledImages(train, held_out, config.classes, fingerprint, f"data.path {config.path}")
