"""Batches of token windows, as pure functions of (seed, step)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hptransfer.errors import UserError

TokenArray = npt.NDArray[np.unsignedinteger[Any]]
Batch = tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]
"""Inputs and targets: both ids (sequences, seq_len), a target being the token after its input; or images, float32
(sequences, channels, height, width), and labels (sequences,)."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Two mapped token streams, never loaded whole. `fingerprint` is a hash of their content and of the tokenizer."""

    train: TokenArray
    held_out: TokenArray
    vocab_size: int
    seq_len: int
    fingerprint: str
    origin: str
    """Where errors say that the tokens come from."""

    def __post_init__(self) -> None:
        for split, tokens in (("train", self.train_tokens), ("validation", self.validation_tokens)):
            if tokens <= self.seq_len:
                raise UserError(
                    f"data.seq_len: {self.seq_len} needs more than {self.seq_len} tokens in each split, but the "
                    f"{split} split of {self.origin} holds {tokens}: shorten seq_len or give more text"
                )

    @property
    def train_tokens(self) -> int:
        return len(self.train)

    @property
    def validation_tokens(self) -> int:
        return len(self.held_out)

    @property
    def validation_sequences(self) -> int:
        """How many sequences there are to validate on."""
        return (self.validation_tokens - 1) // self.seq_len

    def batch(self, seed: int, step: int, sequences: int) -> Batch:
        """Windows at uniformly drawn positions of the train split, with replacement.

        Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the key
        (seed, step), each below 2^64, is all its state. Its raw stream is the one that numpy keeps across versions.
        """
        raw = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).random_raw(sequences)
        starts = raw % np.uint64(self.train_tokens - self.seq_len)
        return self._cut(self._train_windows, starts.astype(np.int64))

    def validation(self, sequences: int) -> Batch:
        """A fixed set of windows that do not overlap, spread evenly over the whole validation split."""
        available = self.validation_sequences
        if sequences > available:
            raise UserError(
                f"train.eval_tokens: {sequences} sequences of {self.seq_len} tokens, but the validation split of "
                f"{self.origin} holds {available}: allowed: up to {available * self.seq_len}, or give more text"
            )
        starts = np.arange(sequences) * available // sequences * self.seq_len
        return self._cut(_windows(self.held_out, self.seq_len), starts)

    @cached_property
    def _train_windows(self) -> TokenArray:
        return _windows(self.train, self.seq_len)

    def _cut(self, windows: TokenArray, starts: npt.NDArray[np.int64]) -> Batch:
        rows = windows[starts]
        check_ids(rows, self.vocab_size, self.origin)
        return rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)


def check_ids(tokens: TokenArray, vocab_size: int, origin: str) -> None:
    """An id outside of the vocabulary is an error, not an index into nothing."""
    largest = int(tokens.max(initial=0))
    if largest >= vocab_size:
        raise UserError(
            f"data.vocab_size: {vocab_size}, but {origin} holds the token id {largest}: "
            f"give a vocab_size of at least {largest + 1}, or check data.dtype"
        )


def _windows(tokens: TokenArray, seq_len: int) -> TokenArray:
    """View (positions, seq_len + 1) on every window; nothing is copied."""
    return np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)
