"""Token files as nanoGPT writes them."""

from pathlib import Path

import numpy as np
import pytest

from hptransfer.data import open_data
from hptransfer.data.token_files import BLOCK_TOKENS
from hptransfer.errors import UserError
from hptransfer.sections import Tokens


def write(folder: Path, dtype: str = "uint16", tokens: int = 5000, held_out: str = "val.bin") -> Path:
    """As nanoGPT's prepare.py does: `np.array(ids, dtype).tofile`."""
    folder.mkdir(exist_ok=True)
    ids = np.random.default_rng(0).integers(0, 1000, tokens + 500)
    np.array(ids[:tokens], dtype=dtype).tofile(folder / "train.bin")
    np.array(ids[tokens:], dtype=dtype).tofile(folder / held_out)
    return folder


def tokens_in(folder: Path, **changes) -> Tokens:
    return Tokens(**{"path": str(folder), "seq_len": 16, "vocab_size": 1000, **changes})


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("held_out", ["val.bin", "validation.bin"])
def test_bins_are_read_as_nanogpt_reads_them(tmp_path: Path, dtype: str, held_out: str) -> None:
    folder = write(tmp_path / "bins", dtype, held_out=held_out)
    data = open_data(tokens_in(folder, dtype=dtype), tmp_path / "runs")
    expected = np.memmap(folder / "train.bin", dtype=dtype, mode="r")
    assert (data.train_tokens, data.validation_tokens, data.vocab_size) == (5000, 500, 1000)
    inputs, targets = data.batch(0, 0, 4)
    for row, target in zip(inputs, targets, strict=True):
        [start] = [i for i in range(5000 - 16) if (expected[i : i + 16] == row).all()]
        assert (expected[start + 1 : start + 17] == target).all()
    assert not data.train.flags.owndata
    assert not data.train.flags.writeable


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two", held_out="validation.bin")
    first = open_data(tokens_in(one), tmp_path / "runs").fingerprint
    assert open_data(tokens_in(two, seq_len=32), tmp_path / "others").fingerprint == first
    (two / "validation.bin").write_bytes((two / "validation.bin").read_bytes()[::-1])
    assert open_data(tokens_in(two, vocab_size=1 << 16), tmp_path / "runs").fingerprint != first


def refused(config: Tokens, runs: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_data(config, runs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    runs, folder = tmp_path / "runs", write(tmp_path / "bins")
    assert refused(tokens_in(tmp_path / "bin"), runs).endswith("no such folder; did you mean 'bins'?")
    (folder / "validation.bin").write_bytes(b"")
    assert "one file named val.bin or validation.bin, has 2" in refused(tokens_in(folder), runs)
    (folder / "validation.bin").unlink()
    (folder / "train.bin").unlink()
    message = refused(tokens_in(folder), runs)
    assert message.startswith(f"data.path: {folder}: needs one file named train.bin, has 0")


def test_dtypes_that_do_not_fit(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    wide = write(tmp_path / "wide", "uint32", tokens=BLOCK_TOKENS)
    assert refused(tokens_in(wide), runs).startswith("data.dtype: uint16, but every second value of")
    narrow = write(tmp_path / "narrow")
    assert "check data.dtype" in refused(tokens_in(narrow, dtype="uint32"), runs)
    (narrow / "train.bin").write_bytes(b"\1" * 1001)
    assert "the 1001 bytes of" in refused(tokens_in(narrow), runs)


def test_empty_and_short_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "bins")
    (folder / "val.bin").write_bytes(b"")
    assert "the validation split of data.path" in refused(tokens_in(folder), tmp_path / "runs")
    assert refused(tokens_in(folder), tmp_path / "runs").startswith("data.seq_len: 16 needs more than 16 tokens")


def test_ids_beyond_the_vocabulary_are_found_at_open(tmp_path: Path) -> None:
    folder = write(tmp_path / "bins")
    message = refused(tokens_in(folder, vocab_size=999), tmp_path / "runs")
    assert message.startswith(f"data.vocab_size: 999, but {folder / 'train.bin'} holds the token id 999: ")


def test_ids_that_the_sample_missed_are_found_in_a_batch(tmp_path: Path) -> None:
    """One bad id in 400 sampled gaps: opening passes, the first batch that meets it does not."""
    folder = write(tmp_path / "bins", tokens=4 * 64 * BLOCK_TOKENS)
    ids = np.memmap(folder / "train.bin", dtype=np.uint16, mode="r+")
    ids[2 * BLOCK_TOKENS : 2 * BLOCK_TOKENS + 16] = 5000
    ids.flush()
    data = open_data(tokens_in(folder), tmp_path / "runs")
    with pytest.raises(UserError, match=r"^data.vocab_size: 1000, but data.path .*bins holds the token id 5000"):
        data.batch(0, 0, 1_000_000)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "bins")

    def forbidden(path, *arguments, **named):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "memmap", forbidden)
    message = refused(tokens_in(folder), tmp_path / "runs")
    assert message == f"data.path: {folder / 'train.bin'}: cannot read: Permission denied"
