"""Data sets that are missing, damaged or odd: one line, exit code 3 (2 where a word names nothing), nothing created."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, said
from patience import Limit
from PIL import Image

from ditkit.config import DataConfig
from ditkit.data import celeba, mnist
from ditkit.errors import DataError

pytestmark = pytest.mark.timeout(60)

TINY = (
    "--set model.patch=7 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.image_size=14 "
    "--set sample.steps=1 --set train.sample_columns=1 --device cpu"
)


def _image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (shade, shade, shade)).save(path, format="PNG")


def _refused(capsys: pytest.CaptureFixture[str], line: str, code: int, *words: str) -> str:
    """The error line of a command line that must leave everything as it was."""
    before = sorted(Path().rglob("*"))
    err = refused(capsys, line, code, *words)
    assert sorted(Path().rglob("*")) == before
    return err.splitlines()[0]


# --- folders


@pytest.mark.parametrize(
    ("files", "line", "code", "words"),
    [
        ([], "train ./nowhere", 2, ["there is no folder ./nowhere"]),
        ([], "train folder --data-dir nowhere", 2, ["--data-dir: nowhere is not a folder"]),
        ([], "train folder --set data.path=nowhere", 3, ["the folder nowhere does not exist"]),
        ([], "train folder", 3, ["needs a folder of images", "--data-dir"]),
        ([], "train ./photos", 3, ["no images in"]),
        (["cats/notes.txt"], "train ./photos", 3, ["no images in", "JPEG"]),
        (["cats/1.png", "dogs/notes.txt"], "train ./photos", 3, ["class folder dogs of", "fill it or remove it"]),
        (["cats/1.png", "2.png"], "train ./photos", 3, ["images beside them: 1, the first is 2.png"]),
        (["1.zip.png/", "a/"], "train ./photos", 3, ["no images in"]),
        (["1.png"], "train ./photos/1.png", 2, ["is a file"]),
        (["1.png"], "train folder --data-dir ./photos/1.png", 2, ["is not a folder"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_folder_that_cannot_be_trained_on_is_two_lines(
    files: list[str], line: str, code: int, words: list[str], capsys: pytest.CaptureFixture[str]
):
    Path("photos").mkdir()
    for name in files:
        (Path("photos") / name).mkdir() if name.endswith("/") else _image(Path("photos") / name)
    _refused(capsys, line, code, *words)


def test_a_folder_that_may_not_be_read_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    _image(Path("photos/cats/1.png"))
    real = os.scandir

    def scandir(path):  # root may read everything, so that permissions show nothing
        if Path(path).name == "cats":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    _refused(capsys, "train ./photos", 3, "cannot read", "cats: Permission denied")


def test_one_class_and_fewer_images_than_a_batch_train_with_one_warning(capsys: pytest.CaptureFixture[str]):
    for index in range(3):
        _image(Path(f"photos/cats/{index}.png"), 80 * index)
    line = f"train ./photos --steps 2 --batch-size 8 --label-from folders --set optim.warmup_steps=0 {TINY}"
    code, out, err = said(capsys, line)
    warnings = [line for line in err.splitlines() if line.startswith("warning:")]
    assert (code, out) == (0, "")
    assert warnings == ["warning: every image has the label 'cats', so guidance has no effect"]
    assert Path("runs/photos/checkpoints/step-0000002/manifest.json").is_file()


# --- CelebA's text files

ROWS = [f"{number:06d}.jpg " + ("1 -1" if number % 2 else "-1  1") for number in range(1, 13)]
PARTS = [f"{number:06d}.jpg {0 if number < 11 else 1}" for number in range(1, 13)]
TABLE = "\n".join(["12", "Male Smiling", *ROWS, ""])
PARTITION = "\n".join([*PARTS, ""])
QUOTA = "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


@pytest.fixture
def faces() -> Path:
    """Twelve images, odd ones male, the last two for validation."""
    root = Path("celeba")
    for number in range(1, 13):
        _image(root / f"img_align_celeba/{number:06d}.jpg", number)
    (root / "list_attr_celeba.txt").write_text(TABLE, encoding="utf-8")
    (root / "list_eval_partition.txt").write_text(PARTITION, encoding="utf-8")
    return root


TABLES: dict[str, tuple[str | bytes, list[str]]] = {
    "a quota page": (QUOTA, ["is a web page, probably a quota"]),
    "empty": ("", ["does not begin with the number of images"]),
    "UTF-16": (TABLE.encode("utf-16"), ["is not a text file"]),
    "UTF-16 without a mark": (TABLE.encode("utf-16-le"), ["does not begin with the number of images"]),
    "an image": (b"\xff\xd8\xff\xe0" + bytes(50), ["is not a text file"]),
    "CSV": ("image_id,Male\n" + "\n".join(ROWS), ["line 2: not a file name and 1 times 1 or -1"]),
    "too few rows": ("\n".join(["12", "Male Smiling", *ROWS[:-1]]), ["says that it has 12 rows, but has 11"]),
    "too many rows": ("\n".join(["11", "Male Smiling", *ROWS]), ["says that it has 11 rows, but has 12"]),
    "a count of 5000 digits": (TABLE.replace("12", "9" * 5000, 1), ["does not begin with the number"]),
    "a count that is no number to Python": (TABLE.replace("12", "\u00b2", 1), ["does not begin with the number"]),
    "a negative count": (TABLE.replace("12", "-12", 1), ["does not begin with the number"]),
    "other names": (TABLE.replace(".jpg", ".png"), ["has no row for 12 of 12 images: 000001.jpg, ", "000005.jpg …"]),
    "missing rows": (
        "\n".join(["6", "Male Smiling", *ROWS[:6]]),
        ["has no row for 6 of 12 images: 000007.jpg, 000008.jpg, 000009.jpg, 000010.jpg, 000011.jpg …"],
    ),
    "a value of 0": (TABLE.replace("000003.jpg 1", "000003.jpg 0"), ["line 5: not a file name and 2 times 1 or -1"]),
    "a row twice": (TABLE.replace("000004", "000003"), ["line 6: a second row for 000003.jpg"]),
    "a row too short": (TABLE.replace("000004.jpg -1  1", "000004.jpg -1"), ["line 6: not a file name and 2 times"]),
}

PARTITIONS: dict[str, tuple[str | bytes, list[str]]] = {
    "a quota page": (QUOTA, ["is a web page, probably a quota"]),
    "UTF-16": (PARTITION.encode("utf-16"), ["is not a text file"]),
    "empty": ("", ["has no row for 12 of 12 images: 000001.jpg, 000002.jpg, 000003.jpg"]),
    "missing rows": ("\n".join(PARTS[:-1]), ["has no row for 1 of 12 images: 000012.jpg\n"]),
    "another split": (PARTITION.replace("000003.jpg 0", "000003.jpg 3"), ["line 3: not a file name and 0, 1 or 2"]),
    "a row twice": (PARTITION.replace("000004", "000003"), ["line 4: a second row for 000003.jpg"]),
    "the table of attributes": (TABLE, ["line 1: not a file name and 0, 1 or 2"]),
}


DAMAGED = [("list_attr_celeba.txt", *case) for case in TABLES.items()]
DAMAGED += [("list_eval_partition.txt", *case) for case in PARTITIONS.items()]


@pytest.mark.parametrize(("name", "kind", "case"), DAMAGED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_table_or_partition_is_two_lines(name: str, kind: str, case: tuple, faces: Path, capsys):
    file, (content, words) = faces / name, case
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(file) in _refused(capsys, "train celeba --data-dir celeba", 3, *words)


@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "list_eval_partition.txt"])
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_a_table_that_is_no_file_is_reported_at_once(
    faces: Path, file: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    (faces / file).unlink()
    make(faces / file)
    _refused(capsys, "train celeba --data-dir celeba", 3, f"{file} is not a file")


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n",
        lambda text: text.replace(" ", "\t").encode(),
    ],
    ids=["Windows line ends", "byte order mark", "both and empty lines", "tabs"],
)
def test_tables_from_other_systems_give_the_same_data(faces: Path, written: Callable[[str], bytes]):
    config = DataConfig(name="celeba", path=str(faces), image_size=(8, 8), channels=3)
    plain = [celeba.dataset(config, split) for split in ("train", "validation")]
    assert [list(part.label_ids) for part in plain] == [[1, 0] * 5, [1, 0]]
    for name, text in (("list_attr_celeba.txt", TABLE), ("list_eval_partition.txt", PARTITION)):
        (faces / name).write_bytes(written(text))
    odd = [celeba.dataset(config, split) for split in ("train", "validation")]
    assert [part.fingerprint for part in odd] == [part.fingerprint for part in plain]


def test_an_unknown_attribute_is_a_wrong_word_with_the_nearest_ones(faces: Path, capsys: pytest.CaptureFixture[str]):
    line = "train celeba --data-dir celeba --set data.label_by=Smilling"
    _refused(capsys, line, 2, "unknown attribute 'Smilling'", "did you mean 'Smiling'?")


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("list_attr_celeba.txt", ["list_attr_celeba.txt is missing"]),
        ("img_align_celeba", ["there is no folder img_align_celeba", "--data-dir"]),
    ],
)
def test_a_missing_part_of_celeba_is_named(
    faces: Path, gone: str, words: list[str], capsys: pytest.CaptureFixture[str]
):
    (faces / gone).rename("moved")
    _refused(capsys, "train celeba --data-dir celeba", 3, *words)


def test_celeba_without_a_network_says_what_to_put_where(capsys: pytest.CaptureFixture[str]):
    _refused(capsys, "train celeba", 6, "cannot reach http://127.0.0.1:9", "img_align_celeba/", "--data-dir")


# --- IDX files


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _header(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


@pytest.fixture
def digits() -> Path:
    """Five images and labels of both sets, the labels packed."""
    root = Path("digits")
    root.mkdir()
    for stem in ("train", "t10k"):
        (root / f"{stem}-images-idx3-ubyte").write_bytes(_idx(np.arange(5 * 784).reshape(5, 28, 28) % 251))
        (root / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(np.arange(5))))
    return root


IMAGES, LABELS, HELD = "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte"
PIXELS = bytes(5 * 784)

IDX: dict[str, tuple[str, bytes, str]] = {
    "empty": (IMAGES, b"", "is not an IDX file of images"),
    "a web page": (IMAGES, b"<html>quota exceeded</html>", "is not an IDX file of images"),
    "labels as images": (IMAGES, _idx(np.arange(5)), "is not an IDX file of images"),
    "images as labels": (LABELS, gzip.compress(_idx(np.zeros((5, 28, 28)))), "is not an IDX file of labels"),
    "floats": (IMAGES, _header(0x0D03, 5, 28, 28) + PIXELS, "is not an IDX file of images"),
    "the header alone": (IMAGES, _header(0x0803, 5, 28, 28), "length is not what its header says"),
    "half a header": (IMAGES, _header(0x0803, 5), "is not an IDX file of images"),
    "no images": (IMAGES, _header(0x0803, 0, 28, 28), "its header says 0x28x28"),
    "images of no size": (IMAGES, _header(0x0803, 5, 0, 0), "its header says 5x0x0"),
    "negative count": (IMAGES, _header(0x0803, 2**32 - 5, 28, 28) + PIXELS, "its header says 4294967291x28x28"),
    "sizes that overflow": (IMAGES, _header(0x0803, 2**31, 2**31, 4) + PIXELS, "its header says 2147483648x2147483648"),
    "product that wraps to 0": (IMAGES, _header(0x0803, 2**16, 2**16, 2**16), "its header says 65536x65536x65536"),
    "one byte short": (IMAGES, _header(0x0803, 5, 28, 28) + PIXELS[:-1], "length is not what its header says"),
    "one byte more": (IMAGES, _header(0x0803, 5, 28, 28) + PIXELS + b"\0", "length is not what its header says"),
    "fewer images": (IMAGES, _idx(np.zeros((4, 28, 28))), "4 images, 5 labels"),
    "a label of 10": (LABELS, gzip.compress(_idx(np.array([0, 1, 2, 3, 10]))), "the largest 10"),
    "cut gzip": (LABELS, gzip.compress(_idx(np.arange(5)))[:-9], "is damaged or cannot be read"),
    "gzip with a wrong sum": (
        LABELS,
        gzip.compress(_idx(np.arange(5)))[:-8] + bytes(8),
        "is damaged or cannot be read",
    ),
    "no gzip": (LABELS, b"no gzip at all", "is damaged or cannot be read"),
    "held-out images": (HELD, b"", "is not an IDX file of images"),
}


@pytest.mark.parametrize("kind", IDX)
def test_damaged_idx_files_are_two_lines(digits: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    file, content, message = IDX[kind]
    (digits / file).write_bytes(content)
    assert "digits" in _refused(capsys, "train mnist --data-dir digits", 3, message, "leave out --data-dir")


def test_a_missing_idx_file_and_a_pipe_of_its_name_are_reported(digits: Path, capsys: pytest.CaptureFixture[str]):
    (digits / LABELS).unlink()
    _refused(capsys, "train mnist --data-dir digits", 3, f"{LABELS} is missing from")
    os.mkfifo(digits / LABELS)
    _refused(capsys, "train mnist --data-dir digits", 3, f"{LABELS} is missing from")


def test_a_packed_bomb_costs_no_more_than_its_header_says(digits: Path):
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as file:
        file.write(_header(0x0801, 5))
        for _ in range(100):
            file.write(bytes(1_000_000))
    (digits / LABELS).write_bytes(bomb.getvalue())
    tracemalloc.start()
    limit = Limit(0.5)
    with pytest.raises(DataError, match="length is not what its header says"):
        mnist.dataset(DataConfig(path=str(digits)), "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000 and not limit.is_over()


def test_a_header_that_promises_gigabytes_is_refused_unread(digits: Path):
    with (digits / IMAGES).open("wb") as file:
        file.write(_header(0x0803, 60_000, 600, 600))
        file.truncate(16 + 60_000 * 600 * 600)  # a sparse file, all there
    tracemalloc.start()
    with pytest.raises(DataError, match="too large: its header says 60000x600x600"):
        mnist.dataset(DataConfig(path=str(digits)), "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
