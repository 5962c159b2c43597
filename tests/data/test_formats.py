"""Which files of a folder or archive are images, and that those which are left out are counted."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from ditkit import recipes
from ditkit.cli.app import main
from ditkit.config import DataConfig
from ditkit.data import formats
from ditkit.data.contract import open_dataset
from ditkit.errors import DataError
from ditkit.events import Warned
from ditkit.training.loop import train

PIXELS = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
READ = {  # an ending of each kind, and the format inside
    "a.jpg": "JPEG", "b.JFIF": "JPEG", "c.jpe": "JPEG", "d.jpg_large": "JPEG", "e.jpeg-orig": "JPEG",
    "f.jpg!d": "JPEG", "g.jpg?w=600": "JPEG", "h.png_large": "PNG", "i.apng": "PNG", "j.ppm": "PPM", "k.v2.jif": "JPEG",
}  # fmt: skip
OLD = {"a.jpg"}  # of them, what the first reading takes


def encoded(name: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, name)
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes], archive: bool) -> str:
    """The files in a folder, or in an archive of it; returns where they are."""
    if archive:
        with zipfile.ZipFile(folder / "all.zip", "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return str(folder / "all.zip")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def opened(path: str, reading: int = 2):
    config = DataConfig(name="folder", path=path, image_size=(8, 8), channels=3, validation=0, reading=reading)
    return open_dataset(config, "train")


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_every_ending_of_a_format_is_read_and_an_earlier_run_keeps_its_files(tmp_path: Path, archive: bool):
    place = write(tmp_path, {name: encoded(kind) for name, kind in READ.items()}, archive)
    images = opened(place)
    assert set(images.names) == set(READ) and formats.left_out_of(images) == {}
    assert all(images[index][0].std() > 1 for index in range(len(images)))
    earlier = opened(place, reading=1)
    assert set(earlier.names) == OLD
    assert earlier.fingerprint != opened(place, reading=2).fingerprint


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_what_looks_like_an_image_and_is_not_read_is_counted_by_ending(tmp_path: Path, archive: bool):
    files = {"a.png": encoded("PNG"), "b.cr2": b"x", "c.CR2": b"x", "d.svg": b"x", "e": encoded("JPEG")}
    images = opened(write(tmp_path, files | {"README": b"read me", "notes.pdf": b"x"}, archive))
    assert dict(formats.left_out_of(images)) == {".cr2": 2, ".svg": 1, "": 1}
    assert formats.sentence(formats.left_out_of(images)) == (
        "4 files are left out: 2 .cr2, 1 without an ending, 1 .svg"
    )


def test_what_would_read_the_rest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    formats.readable.cache_clear()
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    (tmp_path / "a.heic").write_bytes(b"x")
    try:
        with pytest.raises(DataError, match=r"1 file is left out: 1 \.heic") as caught:
            opened(str(tmp_path))
        assert '(pip install "ditkit[heif]" reads them)' in caught.value.message
        (tmp_path / "a.png").write_bytes(encoded("PNG"))
        assert dict(formats.left_out_of(opened(str(tmp_path)))) == {".heic": 1}
    finally:
        formats.readable.cache_clear()


@pytest.mark.parametrize(
    ("name", "kind", "ending"),
    [
        ("JPEG2000", "jpg_2000", "jp2"),
        ("AVIF", "avif", "avif"),
        pytest.param("HEIF", "pillow_heif", "heic", marks=pytest.mark.extras),
        pytest.param("JXL", "pillow_jxl", "jxl", marks=pytest.mark.extras),
    ],
)
def test_newer_formats_are_read_where_something_reads_them(tmp_path: Path, name: str, kind: str, ending: str):
    if name in ("HEIF", "JXL"):
        pytest.importorskip(kind, reason=f'pip install "ditkit[{name.lower()}]"')
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Pillow that has never heard of it
            if not features.check(kind):
                pytest.skip(f"this Pillow has no {name}")
    formats.formats(2)  # loads the plug-ins
    (tmp_path / f"a.{ending}").write_bytes(encoded(name))
    assert np.abs(opened(str(tmp_path))[0][0].astype(int).mean() - PIXELS.mean()) < 30


@pytest.mark.slow
def test_data_show_and_train_say_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / f"photos/{number}.jfif").write_bytes(encoded("JPEG"))
    (tmp_path / "photos/a.nef").write_bytes(b"x")
    settings = ["--image-size", "8", "--set", "model.patch=4"]
    assert main(["data", "show", "photos", *settings, "--out", "x.png"]) == 0
    assert "1 file is left out: 1 .nef" in capsys.readouterr().out
    assert main(["train", "photos", *settings, "--dry-run", "--device", "cpu"]) == 0
    assert "1 file is left out: 1 .nef" in capsys.readouterr().err


def test_training_in_python_hears_it_as_an_event(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(encoded("PNG"))
    (photos / "a.svg").write_bytes(b"x")
    data = {"path": str(photos), "image_size": 8, "validation": 0}
    changes = {"data": data, "model": {"preset": "dit-pico/4", "depth": 1}, "train": {"steps": 1, "batch_size": 2}}
    heard: list[object] = []
    train(recipes.load("folder", changes), tmp_path / "run", heard.append, device="cpu")
    assert Warned(step=0, text="1 file is left out: 1 .svg") in heard
