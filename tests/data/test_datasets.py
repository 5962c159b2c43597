"""The shipped digits, folders of images, and what is held out of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ditkit.config import DataConfig
from ditkit.data import mnist
from ditkit.data.contract import Split, holdout, open_dataset
from ditkit.data.folder import dataset as folder
from ditkit.errors import DitkitError

# --- holdout


def _names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{index}.jpg" for index in range(count)]


def test_holdout_parts_are_disjoint_complete_and_balanced():
    labels = [0] * 900 + [1] * 100
    train, held = holdout(_names(1000), labels, 20)
    assert sorted(train + held) == list(range(1000)) and len(held) == 20
    assert sum(labels[index] for index in held) == 10


def test_holdout_takes_a_tenth_at_most_of_all_and_of_each_class():
    labels = [0] * 900 + [1] * 100
    _, held = holdout(_names(1000), labels, 500)
    assert len(held) == 100 and sum(labels[index] for index in held) == 10
    assert holdout(_names(9), [0] * 9, 5)[1] == []
    assert len(holdout(_names(10), [0] * 10, 5)[1]) == 1
    assert holdout(_names(100), [0] * 100, 0)[1] == []


def test_holdout_never_takes_the_only_image_of_a_class_but_one_of_several_of_a_small_one():
    labels = list(range(50)) + [50] * 5
    _, held = holdout(_names(55), labels, 5)
    assert len(held) == 1 and labels[held[0]] == 50
    _, held = holdout(_names(20), [index // 4 for index in range(20)], 2)
    assert len(held) == 2


def test_holdout_is_spread_over_the_set_and_depends_on_names_not_on_their_order():
    names = _names(1000)
    _, held = holdout(names, [0] * 1000, 100)
    assert 15 < sum(index < 250 for index in held) < 35
    _, backwards = holdout(names[::-1], [0] * 1000, 100)
    assert {names[index] for index in held} == {names[::-1][index] for index in backwards}


def test_holdout_hardly_changes_when_images_are_added():
    before = {_names(1000)[index] for index in holdout(_names(1000), [0] * 1000, 100)[1]}
    after = {_names(1010)[index] for index in holdout(_names(1010), [0] * 1010, 100)[1]}
    assert len(before - after) <= 10


# --- mnist


@pytest.mark.parametrize("name", sorted(mnist.MD5))
def test_the_shipped_mnist_files_are_the_originals(name: str):
    packed = (mnist.SHIPPED / f"{name}.gz").read_bytes()
    assert hashlib.md5(gzip.decompress(packed)).hexdigest() == mnist.MD5[name]
    assert mnist.MD5[name] in (mnist.SHIPPED / "README.md").read_text(encoding="utf-8")


def test_the_md5s_are_those_that_everyone_publishes():
    known = "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 " + (
        "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637"
    )
    assert list(mnist.MD5.values()) == known.split()


def test_the_license_of_mnist_is_beside_it():
    text = (mnist.SHIPPED / "LICENSE.txt").read_text(encoding="utf-8")
    assert all(word in text for word in ("LeCun", "Cortes", "Burges", "creativecommons.org/licenses/by-sa/3.0"))


def test_mnist_is_whole_and_its_validation_split_is_the_start_of_the_t10k_set():
    train, held = open_dataset(DataConfig(), "train"), open_dataset(DataConfig(validation=7), "validation")
    assert (len(train), len(held)) == (60_000, 7)
    assert train.labels == tuple("0123456789")
    assert [train[index][1] for index in range(5)] == [5, 0, 4, 1, 9]
    assert [held[index][1] for index in range(7)] == [7, 2, 1, 0, 4, 1, 4]
    assert train[0][0].shape == (28, 28, 1) and train[0][0].dtype == np.uint8 and train[0][0].max() == 255
    assert train.fingerprint != held.fingerprint == open_dataset(DataConfig(validation=7), "validation").fingerprint


def test_read_images_gives_the_whole_of_both_sets():
    images, labels = mnist.read_images("validation")
    assert images.shape == (10_000, 28, 28) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_is_resized_without_ringing_and_repeated_into_colour():
    resized = open_dataset(DataConfig(image_size=(32, 32), channels=3, validation=20), "validation")
    originals = open_dataset(DataConfig(validation=20), "validation")
    for (image, _), (original, _) in ((resized[index], originals[index]) for index in range(20)):
        assert image.shape == (32, 32, 3) and (image[:, :, 0] == image[:, :, 2]).all()
        assert abs(image.mean() - original.mean()) < 3
        assert (image > 0).mean() < (original > 0).mean() + 0.12


def _idx(array: np.ndarray) -> bytes:
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def _own_files(root: Path, count: int = 5) -> Path:
    for stem in ("train", "t10k"):
        images, labels = np.arange(count * 784).reshape(count, 28, 28) % 251, np.arange(count) % 10
        (root / f"{stem}-images-idx3-ubyte").write_bytes(_idx(images))
        (root / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))
    return root


def test_own_idx_files_are_read_packed_or_not(tmp_path: Path):
    train = mnist.dataset(DataConfig(path=str(_own_files(tmp_path))), "train")
    assert len(train) == 5 and [train[index][1] for index in range(5)] == [0, 1, 2, 3, 4]
    assert train[0][0][0, :3, 0].tolist() == [0, 1, 2]


def test_own_idx_files_may_come_in_an_archive(tmp_path: Path):
    (tmp_path / "digits").mkdir()
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, _own_files(tmp_path / "digits").name)
    packed = mnist.dataset(DataConfig(path=archive), "train")
    loose = mnist.dataset(DataConfig(path=str(tmp_path / "digits")), "train")
    assert packed.fingerprint == loose.fingerprint and (packed.images == loose.images).all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, r"train-images-idx3-ubyte.gz is missing from"),
        ("train-images-idx3-ubyte", b"<html>quota exceeded, try again later</html>", "is not an IDX file of images"),
        ("train-images-idx3-ubyte", b"\0\0", "is not an IDX file of images"),
        ("train-images-idx3-ubyte", _idx(np.zeros((5, 28, 28)))[:-1], "its length is not what its header says"),
        ("train-images-idx3-ubyte", _idx(np.zeros((4, 28, 28))), "do not belong together: 4 images, 5 labels"),
        ("train-labels-idx1-ubyte.gz", b"no gzip", "is damaged or cannot be read"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(_idx(np.zeros(5)), mtime=0)[:-9], "is damaged or cannot be read"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(_idx(np.full(5, 10)), mtime=0),
            "do not belong together: .* largest 10",
        ),
    ],
)
def test_damaged_idx_files_are_one_error_that_names_them(
    tmp_path: Path, file: str, content: bytes | None, message: str
):
    _own_files(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(DitkitError, match=message) as caught:
        mnist.dataset(DataConfig(path=str(tmp_path)), "train")
    assert str(tmp_path) in caught.value.message
    assert "leave out --data-dir" in str(caught.value.hint)


def test_a_changed_byte_in_the_shipped_files_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in mnist.SHIPPED.glob("t10k*.gz"):
        shutil.copyfile(file, tmp_path / file.name)
    labels = bytearray(gzip.decompress((tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    labels[100] = (labels[100] + 1) % 10
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(labels)))
    monkeypatch.setattr(mnist, "SHIPPED", tmp_path)
    with pytest.raises(DitkitError, match=r"t10k-labels-idx1-ubyte\.gz is damaged: its md5 is") as caught:
        mnist.read_images("validation")
    assert "--force-reinstall" in str(caught.value.hint)


# --- folder


def _image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (shade, shade, shade)).save(path, format="PNG")


def _config(root: Path, **settings) -> DataConfig:
    return replace(DataConfig(name="folder", path=str(root), image_size=(4, 4), channels=3, validation=500), **settings)


def _relative(root: Path, split: Split) -> list[str]:
    return list(folder(_config(root), split).names)


def test_class_folders_in_byte_order_are_the_labels_and_are_read_to_the_bottom(tmp_path: Path):
    for shade, name in enumerate(["b/2.png", "a/deep/er/1.PNG", "a/0.JPeG", "é 空/x.webp", "B/y.tiff"]):
        _image(tmp_path / os.fsdecode(name.encode()), 50 * shade)
    photos = open_dataset(_config(tmp_path), "train")
    assert photos.labels == ("B", "a", "b", "é 空")
    seen = [(int(image[0, 0, 0]), label) for image, label in (photos[index] for index in range(len(photos)))]
    assert seen == [(200, 0), (100, 1), (50, 1), (0, 2), (150, 3)]


def test_without_class_folders_there_are_no_labels_and_every_id_is_0(tmp_path: Path):
    for index in range(3):
        _image(tmp_path / f"{index}.png")
    photos = open_dataset(_config(tmp_path), "train")
    assert photos.labels == () and [photos[index][1] for index in range(3)] == [0, 0, 0]


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path):
    for name in ("a/1.png", "a/.2.png", ".cache/3.png", "__MACOSX/a/4.png", "a/._5.png"):
        _image(tmp_path / name)
    for name in ("a/notes.txt", "readme.md"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert _relative(tmp_path, "train") == ["1.png"]  # one folder is around the images, not their label
    assert folder(_config(tmp_path), "train").labels == ()
    assert folder(_config(tmp_path, label_from="folders"), "train").labels == ("a",)


def test_a_tenth_is_held_out_and_a_tiny_folder_keeps_everything(tmp_path: Path):
    for index in range(40):
        _image(tmp_path / "large" / ("ab"[index % 2]) / f"{index}.png")
    train, held = _relative(tmp_path / "large", "train"), _relative(tmp_path / "large", "validation")
    assert len(train) == 36 and len(held) == 4 and not set(train) & set(held)
    assert sorted(folder(_config(tmp_path / "large"), "validation").label_ids) == [0, 0, 1, 1]
    for index in range(9):
        _image(tmp_path / "tiny" / f"{index}.png")
    assert len(_relative(tmp_path / "tiny", "train")) == 9
    assert len(folder(_config(tmp_path / "tiny"), "validation")) == 0


@pytest.mark.usefixtures("links")
def test_a_linked_class_folder_is_followed_and_a_circle_of_links_is_not(tmp_path: Path):
    _image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root" / "a" / "circle").symlink_to(tmp_path / "root", target_is_directory=True)
    _image(tmp_path / "root" / "a" / "2.png")
    assert _relative(tmp_path / "root", "train") == ["a/2.png", "b/1.png"]


@pytest.mark.parametrize(
    ("files", "given", "message", "hint"),
    [
        ([], None, "the dataset 'folder' needs a folder of images", "--data-dir FOLDER"),
        ([], "nowhere", "the folder .*nowhere does not exist", "check the path"),
        (["a.zip"], "a.zip", r"a\.zip is cut short, or no archive", "again"),
        (["a.doc"], "a.doc", r"a\.doc is a file, not a folder of images", "unpack it"),
        ([], ".", "no images in ", "ditkit reads JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM"),
        (["a/notes.txt"], ".", "no images in ", "ditkit reads"),
        (["a/1.png", "b/notes.txt"], ".", "no images in the class folder b of", "fill it or remove it"),
        (
            ["a/1.png", "2.png"],
            ".",
            r"also images beside them: 1, the first is 2\.png",
            "move them into a class folder",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_says_why(
    tmp_path: Path, files: list[str], given: str | None, message: str, hint: str
):
    for name in files:
        _image(tmp_path / name)
    with pytest.raises(DitkitError, match=message) as caught:
        folder(replace(_config(tmp_path), path=None if given is None else str(tmp_path / given)), "train")
    assert hint in str(caught.value.hint)


def _turned(path: Path, crop_marks: np.ndarray, orientation: int) -> None:
    """A picture as a camera saves it that was held so: its pixels lie, and a note says how."""
    turn = {3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rot90(crop_marks, turn)).save(path, exif=exif)


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (8, 12)], ids=["square", "upright", "lying"])
@pytest.mark.parametrize("crop", ["center", "top", "pad", "stretch"])
def test_every_crop_is_of_the_upright_picture(tmp_path: Path, crop: str, size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    for orientation in (3, 6, 8):
        _turned(tmp_path / f"{orientation}.png", pixels, orientation)
    photos = folder(_config(tmp_path, image_size=size, crop=crop), "train")
    upright, *others = (photos[index][0] for index in range(4))
    assert upright.shape == (*size, 3) and all(np.array_equal(upright, other) for other in others)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_large_turned_jpeg_is_cropped_at_its_own_top(tmp_path: Path, orientation: int):
    """The decoder may shrink it before it is turned, which must not change what is seen."""
    pixels = np.full((1200, 400, 3), 200, dtype=np.uint8)
    pixels[:100] = (250, 0, 0)
    _turned(tmp_path / "a.jpg", pixels, orientation)
    image, _ = folder(_config(tmp_path, image_size=(16, 16), crop="top"), "train")[0]
    assert (np.abs(image[:3].astype(int) - (250, 0, 0)) < 12).all()
    assert (np.abs(image[6:].astype(int) - 200) < 12).all()
