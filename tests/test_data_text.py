"""The user's own text."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.data import open_data
from hptransfer.data.corpus import Document
from hptransfer.data.text import find_files, text_documents
from hptransfer.errors import UserError
from hptransfer.sections import Text


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder of thirty letters in two subfolders."""
    for number in range(30):
        folder = tmp_path / "letters" / ("old" if number % 2 else "new")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"Dear reader number {number},\n\ngrüße, {number * number}\n")
    return tmp_path / "letters"


def texts(runs: Path) -> dict[str, list[bytes]]:
    [folder] = (runs / "data").glob("text-*")
    return {split: (folder / f"{split}.bin").read_bytes().split(b"\0")[:-1] for split in ("train", "validation")}


def test_a_folder_is_all_its_files(letters: Path, tmp_path: Path) -> None:
    (letters / ".hidden").write_text("not seen")
    (letters / ".git").mkdir()
    (letters / ".git" / "config").write_text("not seen")
    (letters / "empty.txt").write_text("")
    (letters / "copy.txt").write_bytes((letters / "new/0.txt").read_bytes())
    data = open_data(Text(path=str(letters), seq_len=8), tmp_path / "runs")
    kept = texts(tmp_path / "runs")
    assert sorted(kept["train"] + kept["validation"]) == sorted(path.read_bytes() for path in letters.glob("*/*.txt"))
    assert kept["validation"]
    assert bytes(data.train) == b"".join(text + b"\0" for text in kept["train"])


def test_files_folders_and_globs_name_the_same_text(letters: Path, tmp_path: Path) -> None:
    ways = [
        str(letters),
        str(letters / "**/*.txt"),
        [str(letters / "old"), str(letters / "new/*")],
        [str(path) for path in letters.glob("*/*.txt")] + [str(letters)],
    ]
    assert len({open_data(Text(path=way, seq_len=8), tmp_path / "runs").fingerprint for way in ways}) == 1


def test_changed_text_is_another_corpus(letters: Path, tmp_path: Path) -> None:
    config = Text(path=str(letters), seq_len=8)
    before = open_data(config, tmp_path / "runs").fingerprint
    path = letters / "new/0.txt"
    old = path.read_text()
    path.write_text(old + "PS\n")
    assert open_data(config, tmp_path / "runs").fingerprint != before
    path.write_text(old)
    os.utime(path, (1, 1))
    assert open_data(config, tmp_path / "runs").fingerprint == before


def test_a_single_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} " + "word " * (number % 40) + "\n\n" for number in range(400)]
    (tmp_path / "book.txt").write_text("".join(paragraphs))
    open_data(Text(path=str(tmp_path / "book.txt"), seq_len=16), tmp_path / "runs")
    kept = texts(tmp_path / "runs")
    assert len(kept["train"]) > 20
    assert kept["validation"]
    pieces = kept["train"] + kept["validation"]
    assert all(piece.startswith(b"Paragraph") and piece.endswith(b"\n\n") for piece in pieces)
    assert sum(map(len, pieces)) == len("".join(paragraphs))


@given(text=st.text(alphabet="ab é😀\n", min_size=1, max_size=400), repeats=st.integers(1, 60))
def test_pieces_are_the_file_and_every_piece_is_text(tmp_path_factory, text: str, repeats: int) -> None:
    path = tmp_path_factory.mktemp("pieces") / "text"
    path.write_bytes(text.encode() * repeats)
    pieces = [document.read() for document in text_documents([path])]
    assert b"".join(pieces) == path.read_bytes()
    assert all(len(piece) >= 1024 for piece in pieces[:-1])
    assert all(piece.decode() for piece in pieces)


def test_files_of_a_collection_stay_whole(tmp_path: Path) -> None:
    """Small files are documents however few they are; one that outweighs the rest is cut."""
    small = [tmp_path / f"{number}.txt" for number in range(3)]
    for path in small:
        path.write_text(f"{path.name}\n\n" * 2000)
    assert text_documents(small) == [Document(path, 0, path.stat().st_size) for path in small]
    large = tmp_path / "large.txt"
    large.write_text("line\n\n" * 200_000)
    cut = text_documents([*small, large])
    assert [document for document in cut if document.path != large] == text_documents(small)
    assert 150 < len(cut) < 450


def test_few_documents_still_make_two_splits(tmp_path: Path) -> None:
    """With two documents the one with the lower place is held out, whatever the places are."""
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"text number {number} " * 4)
    open_data(Text(path=str(tmp_path / "*.txt"), seq_len=8), tmp_path / "runs")
    kept = texts(tmp_path / "runs")
    place = {text: hashlib.sha256(text).digest()[-8:] for split in kept.values() for text in split}
    assert kept["validation"] == [min(place, key=place.__getitem__)]
    assert len(kept["train"]) == 1


def refused(path: str | list[str], runs: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_data(Text(path=path, seq_len=8), runs)
    message = str(caught.value)
    assert message.startswith("data.path: ")
    assert "\n" not in message
    assert not list((runs / "data").glob("*"))
    return message


def test_paths_that_are_not_there(letters: Path, tmp_path: Path) -> None:
    assert "did you mean 'letters'?" in refused(str(tmp_path / "leters"), tmp_path / "runs")
    assert "no file, folder or glob matches" in refused(str(tmp_path / "no/such/file"), tmp_path / "runs")
    assert "*.md" in refused([str(letters), str(letters / "*.md")], tmp_path / "runs")


def test_text_that_is_none(letters: Path, tmp_path: Path) -> None:
    (letters / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert "image.png: binary (a NUL at byte 8)" in refused(str(letters), tmp_path / "runs")
    (letters / "image.png").write_bytes(b"caf\xe9")
    assert "image.png: not UTF-8 (byte 3)" in refused(str(letters), tmp_path / "runs")


def test_text_that_is_too_little(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "0 different documents" in refused(str(tmp_path / "empty"), tmp_path / "runs")
    (tmp_path / "one.txt").write_text("a single short text")
    assert "1 different documents (19 bytes of text): two are needed" in refused(
        str(tmp_path / "one.txt"), tmp_path / "runs"
    )


def test_files_that_cannot_be_read(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, opened = letters / "old/1.txt", Path.open

    def guarded(path: Path, *arguments, **named):
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", guarded)
    assert f"{secret}: cannot read: Permission denied" in refused(str(letters), tmp_path / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_cannot_be_read(letters: Path, tmp_path: Path) -> None:
    (letters / "old").chmod(0)
    try:
        assert "cannot read: Permission denied" in refused(str(letters), tmp_path / "runs")
    finally:
        (letters / "old").chmod(0o700)


def test_what_is_no_file(letters: Path, tmp_path: Path) -> None:
    os.mkfifo(letters / "pipe")
    with pytest.raises(UserError, match=r"^data.path: .*pipe: not a file"):
        find_files(str(letters))
    (letters / "pipe").unlink()
    (letters / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^data.path: .*nowhere: not a file"):
        find_files(str(letters))


def test_a_disk_that_fills_up(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *arguments, **named):
        if "w" in mode and path.name == "validation.bin":
            raise OSError(28, "No space left on device", str(path))
        return opened(path, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"runs/data/text-\w+: cannot write: No space left on device$"):
        open_data(Text(path=str(letters), seq_len=8), tmp_path / "runs")
    assert not list((tmp_path / "runs/data").iterdir())
