"""Images from idx files: exactly those in the files, each epoch in an order of its own; anything odd is one line."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx import NAMES, idx_bytes, synthetic, write_images

from hptransfer.data import open_data
from hptransfer.data.idx import read_idx
from hptransfer.data.images import LabelledImages
from hptransfer.errors import UserError
from hptransfer.sections import Images

DEBIAN = Path(Images().path)


def opened(folder: Path, **changes: int) -> LabelledImages:
    data = open_data(Images(path=str(folder), **changes), folder.parent / "runs")
    assert isinstance(data, LabelledImages)
    return data


def refused(folder: Path, **changes: int) -> str:
    with pytest.raises(UserError) as refusal:
        opened(folder, **changes)
    (line,) = str(refusal.value).splitlines()
    return line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return opened(write_images(tmp_path_factory.mktemp("images") / "set", size=4), size=4)


# --- batches ---


def labelled(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_the_images_of_the_files_normalised(tmp_path: Path, packed: bool) -> None:
    data = opened(write_images(tmp_path / "set", packed=packed))
    images, _ = synthetic(64, seed=1)
    inputs, targets = data.validation(20)
    held_out, held_out_labels = synthetic(20, seed=2)
    assert (inputs.dtype, inputs.shape, targets.dtype) == (np.float32, (20, 1, 28, 28), np.int64)
    np.testing.assert_allclose(inputs[:, 0], (held_out - images.mean()) / images.std(), atol=1e-5)
    assert (targets == held_out_labels).all()
    epoch, _ = data.batch(0, 0, 64)
    assert abs(float(epoch.mean())) < 1e-5
    assert float(epoch.std()) == pytest.approx(1, abs=1e-5)
    assert not data.train[0].flags.owndata
    assert not data.train[0].flags.writeable


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6), sequences=st.sampled_from([1, 2, 8, 32, 64]))
@settings(deadline=None, max_examples=30)
def test_an_epoch_is_every_image_once(data: LabelledImages, seed: int, epoch: int, sequences: int) -> None:
    steps = 64 // sequences
    batches = [data.batch(seed, epoch * steps + step, sequences) for step in range(steps)]
    seen = [pair for batch in batches for pair in labelled(*batch)]
    _, labels = synthetic(64, size=4, seed=1)
    assert len(set(seen)) == 64
    assert sorted(label for _, label in seen) == sorted(labels)


def test_a_batch_over_the_end_of_an_epoch_is_of_both(data: LabelledImages) -> None:
    whole = [labelled(*data.batch(5, epoch, 64)) for epoch in range(3)]
    pieces = [pair for step in range(4) for pair in labelled(*data.batch(5, step, 48))]
    assert pieces == [pair for epoch in whole for pair in epoch]
    assert whole[0] != whole[1]
    assert sorted(whole[0]) == sorted(whole[1])


def test_seeds_shuffle_differently_and_alike_every_time(data: LabelledImages) -> None:
    assert labelled(*data.batch(1, 3, 16)) != labelled(*data.batch(2, 3, 16))
    first = labelled(*data.batch(1, 3, 16))
    data.batch(7, 100, 16)
    assert labelled(*data.batch(1, 3, 16)) == first


ELSEWHERE = """
import hashlib, sys
from pathlib import Path
from hptransfer.data import open_data
from hptransfer.sections import Images
data = open_data(Images(path=sys.argv[1]), Path(sys.argv[2]))
print(data.fingerprint, hashlib.sha256(data.batch(3, 5, 40)[0].tobytes()).hexdigest())
"""


def test_another_process_and_packing_give_the_same(tmp_path: Path) -> None:
    answers = set()
    for packed in (False, True):
        folder = write_images(tmp_path / f"set{packed}", packed=packed)
        command = [sys.executable, "-c", ELSEWHERE, str(folder), str(tmp_path / f"runs{packed}")]
        answers.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(answers) == 1


def test_content_not_place_makes_the_fingerprint(tmp_path: Path) -> None:
    one, two = opened(write_images(tmp_path / "one")), opened(write_images(tmp_path / "two"))
    assert one.fingerprint == two.fingerprint
    assert opened(write_images(tmp_path / "three", test=21)).fingerprint != one.fingerprint


def test_validation_is_spread_over_the_test_images(data: LabelledImages) -> None:
    whole, _ = data.validation(20)
    assert (data.validation(5)[0] == whole[::4]).all()
    with pytest.raises(UserError, match=r"^train.eval_tokens: 21, but data.path .* holds 20 test images$"):
        data.validation(21)


def test_a_constant_train_split_is_no_division_by_zero(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", size=4)
    (folder / NAMES[0]).write_bytes(idx_bytes(np.full((64, 4, 4), 7, np.uint8)))
    assert (opened(folder, size=4).batch(0, 0, 8)[0] == 0).all()


# --- what is refused ---


def test_what_is_not_there(tmp_path: Path) -> None:
    how = r"apt-get install dataset-fashion-mnist, or data.path: a folder with such files"
    assert refused(tmp_path / "none") == f"data.path: {tmp_path / 'none'}: no such folder; {how}"
    folder = write_images(tmp_path / "set")
    (folder / NAMES[3]).unlink()
    assert refused(folder) == f"data.path: {folder} has neither {NAMES[3]} nor {NAMES[3]}.gz; {how}"


def test_files_that_do_not_fit_each_other_or_the_config(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set")
    images, labels = folder / NAMES[0], folder / NAMES[1]
    assert refused(folder, size=32) == f"data.size: 32, but the images in {images} are 28 x 28"
    assert refused(folder, classes=9) == f"data.classes: 9, but {labels} holds the label 9"
    labels.write_bytes(idx_bytes(np.zeros(63, np.uint8)))
    assert refused(folder) == f"data.path: {labels} has 63 labels for the 64 images of {images}"
    labels.write_bytes(images.read_bytes())
    assert refused(folder).startswith(f"data.path: {labels}: no idx file of bytes with 1 axes: it begins with 00000803")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_truncated_file_is_named(tmp_path: Path, packed: bool) -> None:
    folder = write_images(tmp_path / "set", packed=packed)
    file = folder / (NAMES[0] + ".gz" * packed)
    content = file.read_bytes()
    for length in (0, 3, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert refused(folder).startswith(f"data.path: {file}: ")


def test_a_damaged_copy_is_not_used(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", packed=True)
    opened(folder)
    (copy, *_) = sorted((tmp_path / "runs/data/images").iterdir(), key=lambda path: -path.stat().st_size)
    content = bytearray(copy.read_bytes())
    content[100] ^= 1
    copy.write_bytes(content)
    assert refused(folder).startswith(f"{copy}: changed since it was unpacked from {folder / NAMES[0]}.gz: delete it")
    copy.unlink()
    opened(folder)


@given(values=st.binary(max_size=40), axes=st.sampled_from([1, 3]), packed=st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_array_or_one_line(tmp_path: Path, values: bytes, axes: int, packed: bool) -> None:
    path = tmp_path / f"file{'.gz' * packed}"
    path.write_bytes(gzip.compress(values) if packed else values)
    try:
        array, _ = read_idx(path, axes, tmp_path, lambda *_: None)
    except UserError as refusal:
        assert str(refusal).startswith(f"data.path: {path}: ")
        assert len(str(refusal).splitlines()) == 1
    else:
        assert idx_bytes(array) == values


@given(shape=st.lists(st.integers(1, 4), min_size=3, max_size=3), value=st.integers(0, 255))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, shape: list[int], value: int) -> None:
    path = tmp_path / "file"
    array = np.full(shape, value, np.uint8)
    path.write_bytes(idx_bytes(array))
    assert (read_idx(path, 3, tmp_path, lambda *_: None)[0] == array).all()


# --- the real thing ---


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"no {DEBIAN}: apt-get install dataset-fashion-mnist")
def test_fashion_mnist_as_debian_packs_it(tmp_path: Path) -> None:
    """60,000 and 10,000 images, each class equally often; mean 72.94 and standard deviation 90.02."""
    data = open_data(Images(), tmp_path)
    assert isinstance(data, LabelledImages)
    assert [len(data.train[1]), data.validation_sequences] == [60000, 10000]
    assert np.bincount(data.train[1]).tolist() == [6000] * 10
    assert np.bincount(data.held_out[1]).tolist() == [1000] * 10
    assert [float(moment) for moment in data._moments] == pytest.approx([72.94, 90.02], abs=0.005)
