"""Batches, the embedded corpus and its cache."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.data import open_data, python_files
from hptransfer.data.hashing import file_hash
from hptransfer.data.windows import Windows
from hptransfer.errors import UserError
from hptransfer.sections import PythonSource


def counting(train: int = 1000, held_out: int = 200, seq_len: int = 8) -> Windows:
    """Tokens that are their own positions."""
    return Windows(
        train=np.arange(train, dtype=np.uint32),
        held_out=np.arange(held_out, dtype=np.uint32),
        vocab_size=train,
        seq_len=seq_len,
        fingerprint="",
        origin="counting",
    )


def starts_of(data: Windows, seed: int, step: int, sequences: int) -> list[int]:
    return [int(start) for start in data.batch(seed, step, sequences)[0][:, 0]]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of 60 small modules in place of the machine's."""
    root = tmp_path / "library"
    (root / "tests").mkdir(parents=True)
    for number in range(60):
        (root / f"module{number}.py").write_text(f"def function{number}() -> int:\n    return {number}\n" * 4)
    (root / "copy.py").write_bytes((root / "module7.py").read_bytes())
    (root / "empty.py").write_text("")
    (root / "latin.py").write_bytes(b"name = '\xe9'\n")
    (root / "notes.txt").write_text("no Python")
    (root / "broken.py").symlink_to(root / "nowhere.py")
    (root / "tests" / "test_module.py").write_text("assert True\n")
    monkeypatch.setattr(python_files, "_roots", lambda: iter([root]))
    return root


def documents(folder: Path) -> dict[str, list[bytes]]:
    return {split: (folder / f"{split}.bin").read_bytes().split(b"\0")[:-1] for split in ("train", "validation")}


# Batches


def philox_4x64(counter: int, key: tuple[int, int]) -> list[int]:
    """Ten rounds of Philox4x64 (Salmon et al. 2011, section 3.3 and table 2), in plain integers."""
    word = 2**64 - 1
    x0, x1, x2, x3 = (counter >> shift & word for shift in (0, 64, 128, 192))
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * x0, 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * x2, 2**64)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & word, k1 + 0xBB67AE8584CAA73B & word
    return [x0, x1, x2, x3]


def test_the_oracle_is_philox() -> None:
    """The known answer of Random123 (kat_vectors: philox4x64, 10 rounds, counter and key 0)."""
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox_4x64(0, (0, 0)) == known


@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 10**6))
def test_starts_are_the_stream_of_philox(seed: int, step: int) -> None:
    """A change here changes every run. numpy counts from 1."""
    stream = philox_4x64(1, (seed, step)) + philox_4x64(2, (seed, step))
    assert starts_of(counting(), seed, step, 8) == [number % (1000 - 8) for number in stream]


@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**64 - 1),
    sequences=st.integers(1, 40),
    seq_len=st.integers(1, 30),
    extra=st.integers(1, 50),
)
def test_a_batch_is_windows_of_the_stream(seed: int, step: int, sequences: int, seq_len: int, extra: int) -> None:
    data = counting(train=seq_len + extra, held_out=seq_len + 1, seq_len=seq_len)
    inputs, targets = data.batch(seed, step, sequences)
    assert inputs.shape == targets.shape == (sequences, seq_len)
    assert inputs.dtype == targets.dtype == np.int64
    assert (inputs == inputs[:, :1] + np.arange(seq_len)).all()
    assert (targets == inputs + 1).all()


@given(sequences=st.integers(1, 40), fewer=st.integers(1, 40))
def test_a_batch_does_not_depend_on_how_it_is_cut(sequences: int, fewer: int) -> None:
    data = counting()
    whole, part = data.batch(1, 2, max(sequences, fewer)), data.batch(1, 2, min(sequences, fewer))
    for long, short in zip(whole, part, strict=True):
        assert (long[: len(short)] == short).all()


def test_every_start_is_drawn_and_no_other() -> None:
    data = counting(train=20, held_out=9, seq_len=8)
    counts = np.bincount(starts_of(data, 0, 0, 12_000), minlength=12)
    assert len(counts) == 12
    assert abs(counts - 1000).max() < 150  # 5 standard deviations of a binomial(12000, 1/12)


def test_seeds_and_steps_draw_different_batches() -> None:
    data = counting()
    drawn = {tuple(starts_of(data, seed, step, 16)) for seed in range(10) for step in range(10)}
    assert len(drawn) == 100


@given(held_out=st.integers(10, 300), seq_len=st.integers(1, 9), data=st.data())
def test_validation_windows_are_spread_and_do_not_overlap(held_out: int, seq_len: int, data: st.DataObject) -> None:
    available = (held_out - 1) // seq_len
    sequences = data.draw(st.integers(1, available))
    counted = counting(train=300, held_out=held_out, seq_len=seq_len)
    inputs, targets = counted.validation(sequences)
    assert (targets == inputs + 1).all()
    assert len(np.unique(inputs)) == inputs.size == sequences * seq_len
    gaps = np.diff(inputs[:, 0])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= seq_len
    assert inputs[0, 0] == 0
    assert held_out - inputs[-1, 0] <= -(-available // sequences) * seq_len + seq_len


def test_too_many_validation_sequences() -> None:
    with pytest.raises(UserError, match=r"^train.eval_tokens: 25 sequences of 8 .*holds 24: allowed: up to 192"):
        counting(held_out=200).validation(25)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_shorter_than_a_sequence(split: str) -> None:
    sizes = {"train": 100, "held_out": 100, {"train": "train", "validation": "held_out"}[split]: 64}
    with pytest.raises(UserError, match=rf"^data.seq_len: 64 needs more than 64 .*the {split} split .*holds 64"):
        counting(**sizes, seq_len=64)
    assert counting(train=65, held_out=65, seq_len=64).batch(0, 0, 1)[0].shape == (1, 64)


# The embedded corpus


def test_what_the_embedded_corpus_takes(installed: Path, tmp_path: Path) -> None:
    data = open_data(PythonSource(seq_len=16), tmp_path / "runs")
    kept = documents(tmp_path / "runs/data/python_source-32mb")
    texts = kept["train"] + kept["validation"]
    assert sorted(texts) == sorted(path.read_bytes() for path in installed.glob("module*.py"))
    assert data.train_tokens == sum(map(len, kept["train"])) + len(kept["train"])
    assert data.vocab_size == 256
    meta = json.loads((tmp_path / "runs/data/python_source-32mb/meta.json").read_text())
    assert meta["duplicates"] == 1
    assert meta["documents"] == {split: len(texts) for split, texts in kept.items()}


def test_the_split_is_by_a_hash_of_the_content(installed: Path, tmp_path: Path) -> None:
    """The last eight bytes of SHA-256 decide; the order is that of the whole hash; no document is on both sides."""
    open_data(PythonSource(seq_len=16), tmp_path / "runs")
    kept = documents(tmp_path / "runs/data/python_source-32mb")
    for split, texts in kept.items():
        digests = [hashlib.sha256(text).digest() for text in texts]
        assert digests == sorted(digests)
        assert all((digest[-8:] < (2**64 // 20).to_bytes(8, "big")) == (split == "validation") for digest in digests)
    assert kept["validation"]
    assert not set(kept["train"]) & set(kept["validation"])


def test_the_cap_in_megabytes(installed: Path, tmp_path: Path) -> None:
    data = open_data(PythonSource(seq_len=16, size_mb=0.004), tmp_path / "runs")
    assert 3700 < data.train_tokens + data.validation_tokens <= 4000


def test_a_sweep_keeps_its_corpus(installed: Path, tmp_path: Path) -> None:
    before = open_data(PythonSource(seq_len=16), tmp_path / "runs")
    (installed / "module0.py").write_text("changed = True\n")
    (installed / "added.py").write_text("added = True\n")
    after = open_data(PythonSource(seq_len=16), tmp_path / "runs")
    assert after.fingerprint == before.fingerprint
    assert (after.train == before.train).all()
    assert open_data(PythonSource(seq_len=16), tmp_path / "elsewhere").fingerprint != before.fingerprint


def test_the_fingerprint_is_of_the_content_alone(installed: Path, tmp_path: Path) -> None:
    before = open_data(PythonSource(seq_len=16), tmp_path / "runs")
    for path in installed.glob("module*.py"):
        path.rename(path.with_name(f"renamed_{path.name}"))
    assert open_data(PythonSource(seq_len=8), tmp_path / "others").fingerprint == before.fingerprint


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "meta.json"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:], None])
def test_a_damaged_cache_is_named(installed: Path, tmp_path: Path, name: str, damage) -> None:
    config = PythonSource(seq_len=16)
    before = open_data(config, tmp_path / "runs")
    folder = tmp_path / "runs/data/python_source-32mb"
    path = folder / name
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{folder}: damaged corpus: .*{name}.*delete this folder"):
        open_data(config, tmp_path / "runs")
    shutil.rmtree(folder)
    assert open_data(config, tmp_path / "runs").fingerprint == before.fingerprint


def test_builders_at_the_same_time(installed: Path, tmp_path: Path) -> None:
    """Whoever is first wins, and all read the winner's."""
    seen: list[str] = []
    barrier = threading.Barrier(4)

    def build() -> None:
        barrier.wait()
        seen.append(open_data(PythonSource(seq_len=16), tmp_path / "runs").fingerprint)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert [path.name for path in (tmp_path / "runs/data").iterdir()] == ["python_source-32mb"]


def test_the_slower_builder_takes_the_winners(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes, with a newer installation, while this one reads."""
    winner = tmp_path / "winner"
    expected = open_data(PythonSource(seq_len=16), winner).fingerprint
    (installed / "added.py").write_text("added = True\n")
    found = python_files.python_documents

    def overtaken():
        shutil.copytree(winner / "data", tmp_path / "runs/data", dirs_exist_ok=True)
        return found()

    monkeypatch.setattr(python_files, "python_documents", overtaken)
    assert open_data(PythonSource(seq_len=16), tmp_path / "runs").fingerprint == expected
    assert [path.name for path in (tmp_path / "runs/data").iterdir()] == ["python_source-32mb"]


def test_an_interrupted_build_leaves_nothing(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(PythonSource(seq_len=16), tmp_path / "runs", interrupt)
    assert not list((tmp_path / "runs/data").iterdir())


def test_a_file_in_the_place_of_the_runs_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"runs/data.*: cannot write: "):
        open_data(PythonSource(seq_len=16), tmp_path / "runs")


def test_nothing_to_split(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.size_mb: 1e-05: 0 different documents .*two are needed"):
        open_data(PythonSource(seq_len=16, size_mb=1e-5), tmp_path / "runs")
    assert not list((tmp_path / "runs/data").iterdir())


def test_progress_ends_at_the_whole(installed: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_data(PythonSource(seq_len=16), tmp_path / "runs", lambda *told_now: told.append(told_now))
    assert {what for what, _, _ in told} == {"reading text"}
    assert told[-1][1] == told[-1][2] > 0


def test_the_real_corpus_in_two_processes_without_torch(tmp_path: Path) -> None:
    """Two interpreters with their own hash seeds and empty caches agree on the content and on a batch."""
    program = (
        "import hashlib, sys; from pathlib import Path\n"
        "from hptransfer.data import open_data; from hptransfer.sections import PythonSource\n"
        "data = open_data(PythonSource(size_mb=1), Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules and 'tokenizers' not in sys.modules\n"
        "assert 940_000 < data.train_tokens + data.validation_tokens <= 1_000_000\n"
        "print(data.fingerprint, hashlib.sha256(data.batch(3, 5, 16)[0].tobytes()).hexdigest())\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        for name in ("one", "two")
    }
    assert len(answers) == 1


# BPE


def test_bpe_is_lossless_and_deterministic(installed: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    config = PythonSource(seq_len=4, tokenizer="bpe", vocab_size=280)
    data = open_data(config, tmp_path / "runs")
    store = tmp_path / "runs/data"
    tokenizer = Tokenizer.from_file(str(store / "python_source-32mb-bpe280/tokenizer.json"))
    for split, tokens in (("train", data.train), ("validation", data.held_out)):
        text = (store / f"python_source-32mb/{split}.bin").read_bytes()
        assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False).encode() == text
        assert len(tokens) < len(text) / 2
    assert data.vocab_size == 280
    assert int(data.train.max()) < 280
    again = open_data(config, tmp_path / "others")
    assert again.fingerprint == data.fingerprint
    assert data.fingerprint != open_data(PythonSource(seq_len=4), tmp_path / "runs").fingerprint


def test_bpe_never_sees_validation(installed: Path, tmp_path: Path) -> None:
    """A tokenizer trained on the training documents alone is the one that is kept."""
    from hptransfer.data.bpe import _train

    open_data(PythonSource(seq_len=4, tokenizer="bpe", vocab_size=280), tmp_path / "runs")
    store = tmp_path / "runs/data"
    train = [text.decode() for text in documents(store / "python_source-32mb")["train"]]
    kept = json.loads((store / "python_source-32mb-bpe280/tokenizer.json").read_text())
    assert kept == json.loads(_train(train, 280).to_str())


def test_bpe_is_kept_when_its_sources_go(installed: Path, tmp_path: Path) -> None:
    config = PythonSource(seq_len=4, tokenizer="bpe", vocab_size=280)
    before = open_data(config, tmp_path / "runs").fingerprint
    shutil.rmtree(tmp_path / "runs/data/python_source-32mb")
    (installed / "added.py").write_text("added = True\n")
    assert open_data(config, tmp_path / "runs").fingerprint == before


def test_a_vocabulary_that_the_text_does_not_yield(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.vocab_size: 60000; allowed with this text: 256 to \d{3}$"):
        open_data(PythonSource(seq_len=4, tokenizer="bpe", vocab_size=60000), tmp_path / "runs")


# Hashes


def test_the_hash_of_a_huge_file_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hptransfer.data.hashing.REMEMBERED_FROM", 10)
    path, memory = tmp_path / "tokens.bin", tmp_path / "hashes"
    path.write_bytes(b"x" * 100)
    expected = hashlib.sha256(b"x" * 100).hexdigest()
    told: list[int] = []
    assert file_hash(path, memory, lambda what, done, total: told.append(done)) == expected
    assert file_hash(path, memory, lambda what, done, total: told.append(done)) == expected
    assert told == [100]
    path.write_bytes(b"y" * 101)
    assert file_hash(path, memory) == hashlib.sha256(b"y" * 101).hexdigest()
