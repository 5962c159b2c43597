"""CelebA from disk: the genuine file formats, subsets, splits, and every way the files are wrong."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditkit.config import DataConfig
from ditkit.data.celeba import dataset
from ditkit.data.contract import Split, open_dataset
from ditkit.errors import DitkitError, UsageError

ATTRIBUTES = ["Bald", "Eyeglasses", "Male", "Smiling"]


def _attribute_row(number: int) -> str:
    """As in the genuine file: two spaces before 1, one before -1. Male: every third; Bald: only 7."""
    values = [number == 7, number % 2 == 0, number % 3 == 0, number % 5 == 0]
    return f"{number:06d}.jpg" + "".join("  1" if value else " -1" for value in values)


def _write(root: Path, count: int = 40, images: range | None = None, line_end: str = "\n") -> Path:
    (root / "img_align_celeba").mkdir(parents=True)
    rows = [str(count), " ".join(ATTRIBUTES) + " ", *(_attribute_row(number) for number in range(1, count + 1))]
    (root / "list_attr_celeba.txt").write_text(line_end.join([*rows, ""]), encoding="utf-8", newline="")
    parts = [f"{number:06d}.jpg {0 if number <= 30 else 1 if number <= 36 else 2}" for number in range(1, count + 1)]
    (root / "list_eval_partition.txt").write_text("\r\n".join([*parts, ""]), encoding="utf-8", newline="")
    for number in images or range(1, count + 1):
        Image.new("RGB", (18, 22), (number, 100, 200)).save(root / "img_align_celeba" / f"{number:06d}.jpg")
    return root


def _config(root: Path, **settings) -> DataConfig:
    return replace(DataConfig(name="celeba", path=str(root), image_size=(8, 8), channels=3, validation=4), **settings)


def _split(root: Path, split: Split, **settings) -> list[int]:
    return [int(name.removesuffix(".jpg")) for name in dataset(_config(root, **settings), split).names]


def test_labels_are_female_and_male_unless_another_attribute_is_asked_for(tmp_path: Path):
    _write(tmp_path)
    faces = open_dataset(_config(tmp_path), "train")
    assert faces.labels == ("female", "male")
    assert [faces[index][1] for index in range(6)] == [0, 0, 1, 0, 0, 1]
    for spelling in ("Eyeglasses", "eyeglasses"):
        glasses = dataset(_config(tmp_path, label_by=spelling), "train")
        assert glasses.labels == ("not_eyeglasses", "eyeglasses")
        assert list(glasses.label_ids[:4]) == [0, 1, 0, 1]


def test_images_are_decoded_at_the_size_and_channels_asked_for(tmp_path: Path):
    _write(tmp_path)
    image, _ = dataset(_config(tmp_path), "train")[9]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert np.abs(image[4, 4].astype(int) - (10, 100, 200)).max() <= 4
    assert dataset(_config(tmp_path, channels=1, image_size=(4, 8)), "train")[9][0].shape == (4, 8, 1)


def test_the_official_split_is_followed_and_its_test_images_are_left_out(tmp_path: Path):
    _write(tmp_path)
    assert _split(tmp_path, "train") == list(range(1, 31))
    assert _split(tmp_path, "validation") == [31, 32, 33, 34]
    assert _split(tmp_path, "validation", validation=100) == [31, 32, 33, 34, 35, 36]
    assert _split(tmp_path, "validation", validation=0) == []


@pytest.mark.parametrize("partition", [True, False])
def test_a_subset_without_validation_images_holds_some_out_of_train(tmp_path: Path, partition: bool):
    _write(tmp_path, images=range(1, 31))
    if not partition:
        (tmp_path / "list_eval_partition.txt").unlink()
    train, held = (dataset(_config(tmp_path, validation=2), split) for split in ("train", "validation"))
    assert len(held) == 2 and sorted(held.label_ids) == [0, 1]
    assert sorted([*train.names, *held.names]) == [f"{number:06d}.jpg" for number in range(1, 31)]
    assert dataset(_config(tmp_path, validation=2), "validation").names == held.names


def test_windows_line_ends_and_a_byte_order_mark_are_tolerated(tmp_path: Path):
    plain, windows = _write(tmp_path / "plain"), _write(tmp_path / "windows", line_end="\r\n")
    file = windows / "list_attr_celeba.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert list(dataset(_config(windows), "train").label_ids) == list(dataset(_config(plain), "train").label_ids)


def test_the_folder_may_be_given_from_above_or_from_inside(tmp_path: Path):
    expected = dataset(_config(_write(tmp_path / "some" / "celeba")), "train")
    for given in ("some", "some/celeba", "some/celeba/img_align_celeba"):
        assert dataset(_config(tmp_path / given), "train").fingerprint == expected.fingerprint


def _as_csv(file: Path) -> None:
    """As Kaggle has a list: commas, and a header."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header, rows = (
        (["image_id", "partition"], lines)
        if "partition" in file.name
        else (
            ["image_id", *lines[1].split()],
            lines[2:],
        )
    )
    text = "\n".join(",".join(row) for row in (header, *(row.split() for row in rows)))
    file.with_suffix(".csv").write_text(text, encoding="utf-8")
    file.unlink()


@pytest.mark.parametrize("kind", ["Kaggle", "nested", "authors", "authors, packed", "authors, in a folder", "PNG"])
def test_it_is_found_as_people_have_it(tmp_path: Path, kind: str):
    """Labels and splits are the same in every layout that it is published in."""
    plain, root = _write(tmp_path / "plain"), _write(tmp_path / "celeba")
    images, lists = root / "img_align_celeba", ["list_attr_celeba.txt", "list_eval_partition.txt"]
    if kind in ("Kaggle", "nested"):
        for name in lists:
            _as_csv(root / name)
    if kind == "nested":
        images.rename(root / "inner")
        images.mkdir()
        (root / "inner").rename(images / "img_align_celeba")
    if kind.startswith("authors"):
        for folder in ("Img", "Anno", "Eval"):
            (root / folder).mkdir()
        (root / lists[0]).rename(root / "Anno" / lists[0])
        (root / lists[1]).rename(root / "Eval" / lists[1])
        images.rename(root / "Img" / images.name)
    if kind == "authors, packed":
        shutil.make_archive(str(root / "Img/img_align_celeba"), "zip", root / "Img", "img_align_celeba")
        shutil.rmtree(root / "Img/img_align_celeba")
    if kind == "PNG":
        for file in images.iterdir():
            file.rename(file.with_suffix(".png"))
        images.rename(root / "img_align_celeba_png")
    given = [root, *([] if kind == "authors, packed" else [next(root.rglob("00000*")).parent])]
    given += [tmp_path] if kind == "authors, in a folder" else []
    if kind == "authors, in a folder":
        shutil.rmtree(plain)
        plain = _write(tmp_path.parent / f"{tmp_path.name}-plain")
    for place in given:
        for split in ("train", "validation"):
            expected, found = dataset(_config(plain), split), dataset(_config(place), split)
            assert found.labels == expected.labels and list(found.label_ids) == list(expected.label_ids)
            assert [name[:6] for name in found.names] == [name[:6] for name in expected.names]


def test_the_fingerprint_follows_names_sizes_and_labels_but_not_the_place(tmp_path: Path):
    here, there = _write(tmp_path / "a"), _write(tmp_path / "b")
    first = dataset(_config(here), "train").fingerprint
    assert dataset(_config(there), "train").fingerprint == first
    assert dataset(_config(here, label_by="Smiling"), "train").fingerprint != first
    (there / "img_align_celeba" / "000003.jpg").unlink()
    assert dataset(_config(there), "train").fingerprint != first
    with (here / "img_align_celeba" / "000003.jpg").open("ab") as file:
        file.write(b"\0")
    assert dataset(_config(here), "train").fingerprint != first


def test_opening_it_decodes_nothing(tmp_path: Path):
    _write(tmp_path)
    (tmp_path / "img_align_celeba" / "000002.jpg").write_bytes(b"<html>")
    faces = dataset(_config(tmp_path), "train")
    with pytest.raises(DitkitError, match=r"cannot read the image .*000002\.jpg"):
        faces[1]


def test_offline_without_a_folder_it_says_which_files_to_put_where(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    with pytest.raises(DitkitError) as caught:
        dataset(DataConfig(name="celeba"), "train")
    assert caught.value.message == "hf://flwrlabs/celeba is not looked up, because DITKIT_OFFLINE is set"
    assert caught.value.exit_code == 6
    names = "img_align_celeba/ list_attr_celeba.txt list_eval_partition.txt --data-dir train-*.parquet valid-*.parquet"
    for word in names.split():
        assert word in str(caught.value.hint)


def test_an_unknown_attribute_is_a_usage_error_with_the_nearest_names(tmp_path: Path):
    _write(tmp_path)
    with pytest.raises(UsageError) as caught:
        dataset(_config(tmp_path, label_by="Smilling"), "train")
    assert caught.value.message == "unknown attribute 'Smilling'"
    assert caught.value.hint == "did you mean 'Smiling'?"


def _damage(root: Path, file: str, content: str | bytes | None) -> None:
    if content is None:
        (root / file).unlink()
    elif isinstance(content, bytes):
        (root / file).write_bytes(content)
    else:
        (root / file).write_text(content, encoding="utf-8")


HEAD = "2\nBald Male\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list_attr_celeba.txt", None, "is missing"),
        ("list_attr_celeba.txt", "\n <!DOCTYPE html><title>Google Drive - Quota exceeded", "is a web page, probably a"),
        ("list_attr_celeba.txt", b"\xff\xd8\xff\xe0\x00", "is not a text file"),
        ("list_attr_celeba.txt", "", "does not begin with the number of images"),
        ("list_attr_celeba.txt", "image_id,Bald,Male\n000001.jpg,1,-1\n", "has no row for 39 of 40 images"),
        ("list_attr_celeba.txt", "image_id,Bald,Male\n000001.jpg,1,x\n", "line 2: not a file name and 2 times 1 or -1"),
        ("list_attr_celeba.txt", f"{HEAD}000001.jpg  1 -1\n", "says that it has 2 rows, but has 1"),
        ("list_attr_celeba.txt", f"{HEAD}000001.jpg  1 -1\n000002.jpg  1\n", "line 4: not a file name and 2 times"),
        ("list_attr_celeba.txt", f"{HEAD}000001.jpg  1  7\n000002.jpg  1  1\n", "line 3: not a file name and 2 times"),
        (
            "list_attr_celeba.txt",
            f"{HEAD}000001.jpg  1 -1\n000002.jpg  1  1\n",
            "has no row for 38 of 40 images",
        ),
        ("list_eval_partition.txt", "<html>", "is a web page"),
        ("list_eval_partition.txt", "000001.jpg 0\n000002.jpg 3\n", "line 2: not a file name and 0, 1 or 2"),
        ("list_eval_partition.txt", "000001.jpg 0\n", "has no row for 39 of 40 images: 000002.jpg"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(
    tmp_path: Path, file: str, content: str | bytes | None, message: str
):
    _damage(_write(tmp_path), file, content)
    with pytest.raises(DitkitError, match=message) as caught:
        dataset(_config(tmp_path), "train")
    assert str(tmp_path / file) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint and caught.value.exit_code == 3


def test_a_folder_without_the_images_or_an_empty_one_says_so(tmp_path: Path):
    with pytest.raises(DitkitError, match="there is no folder img_align_celeba in"):
        dataset(_config(tmp_path), "train")
    with pytest.raises(DitkitError, match=r"the folder .*nowhere does not exist"):
        dataset(_config(tmp_path / "nowhere"), "train")
    (tmp_path / "img_align_celeba").mkdir()
    with pytest.raises(DitkitError, match=r"no images in .*img_align_celeba"):
        dataset(_config(tmp_path), "train")


def test_a_class_without_training_images_is_refused(tmp_path: Path):
    _write(tmp_path, images=range(8, 31))
    with pytest.raises(DitkitError, match=r"no training image in .* is 'bald'"):
        dataset(_config(tmp_path, label_by="Bald"), "train")


def test_a_subset_of_only_test_images_is_refused(tmp_path: Path):
    _write(tmp_path, images=range(37, 41))
    with pytest.raises(DitkitError, match=r"none of the 4 images in .* is in the official train split"):
        dataset(_config(tmp_path), "train")


@pytest.mark.shared
@pytest.mark.skipif("DITKIT_TEST_DATA" not in os.environ, reason="DITKIT_TEST_DATA names no folder with celeba/")
def test_the_real_subset_is_read():
    root = Path(os.environ["DITKIT_TEST_DATA"]) / "celeba"
    config = _config(root, image_size=(64, 64), validation=500)
    train, held = dataset(config, "train"), dataset(config, "validation")
    assert (len(train), len(held)) == (9500, 500)
    assert sum(train.label_ids) + sum(held.label_ids) == 4217
    assert sum(held.label_ids) == 250 and not set(train.names) & set(held.names)
    assert train[0][0].shape == (64, 64, 3) and train[0][0].std() > 10
