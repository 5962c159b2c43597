"""The same hostile archives, read where they are: one line, or only the images that are sound."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from archives import END, FEW, GOOD, GOOD_TAR, GOOD_ZIP, HOSTILE, PICTURE, SMALL, header, tar_of, zip_of
from command_line import refused, said
from loading import load_image
from patience import Limit
from test_hostile_archives import TINY

from ditkit.config import DataConfig
from ditkit.data.folder import dataset
from ditkit.data.image_dataset import ImageDataset
from ditkit.data.sources import archive as sources_archive
from ditkit.data.sources import archive_names
from ditkit.data.sources.archive_names import Limits
from ditkit.errors import DataError

pytestmark = pytest.mark.timeout(60)

# Nothing is written, so that these do no harm.
HARMLESS = {"zip, file and folder": 1, "zip, folder and file": 1}
# Noticed when the image is read: how many of the archive's images are sound.
LATER = {
    "zip, bomb that lies": 0,
    "zip, wrong checksum": 0,
    "zip, says less": 0,
    "zip, says more": 0,
    "zip, stored and says more": 0,
    "zip, content of another length": 0,
    "zip, other name inside": 0,
    "zip, inflates to nonsense": 11,
}
OTHERWISE = {  # said in other words than when unpacked
    "zip, bomb": "would unpack to more than 20,9",
    "zip, bomb of many": "would unpack to more than 2,097,152 bytes",
    "tar, twice": "'a.png' is there twice",
    "tar, endless name": "has a header that is too long",
    "tar, far too large": "'a.png' is cut short or damaged",
}
PACKED = ("tar.gz", "tar.bz2", "tar.xz", "gz of")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_archive, "Limits", lambda: SMALL)


def _opened(content: bytes, name: str = "photos.zip") -> ImageDataset:
    Path(name).write_bytes(content)
    return dataset(DataConfig(name="folder", path=name, image_size=(8, 8), channels=3, validation=0), "train")


def _readable(images: ImageDataset) -> dict[str, np.ndarray]:
    found = {}
    for index, name in enumerate(images.names):
        try:
            found[name] = images[index][0]
        except DataError as error:
            assert error.message.startswith("cannot read the image ") and error.hint
    return found


def _same(found: dict[str, np.ndarray], files: dict[str, bytes]) -> bool:
    for name, content in files.items():
        Path("one.png").write_bytes(content)
        if name in found and not np.array_equal(found[name], np.asarray(load_image(Path("one.png"), 3))):
            return False
    return True


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if not kind.startswith(PACKED)])
def test_a_hostile_archive_is_one_line_or_harmless(kind: str, tmp_path: Path) -> None:
    make, message = HOSTILE[kind]
    content = make()
    limit = Limit(5)
    tracemalloc.start()
    try:
        images = _opened(content)
    except DataError as error:
        assert kind not in LATER and kind not in HARMLESS
        assert OTHERWISE.get(kind, message) in error.message and str(tmp_path / "photos.zip") in error.message
        assert error.message.isprintable() and len(error.message) < 600 and error.hint
    else:
        assert len(_readable(images)) == (LATER | HARMLESS)[kind]
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * archive_names.BLOCK and not limit.is_over()
    assert list(Path("cache").rglob("*.png")) == []


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_archive_gives_the_images_that_it_unpacks_to(kind: str) -> None:
    images = _opened(GOOD[kind]())
    found = _readable(images)
    assert images.labels == ("cat", "dog") and found.keys() == FEW.keys() and _same(found, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content"), [("a.zip", GOOD_ZIP), ("b.tar", GOOD_TAR)])
def test_no_flipped_bit_of_an_archives_structure_changes_an_image(name: str, content: bytes) -> None:
    draw, refused = random.Random(name), 0
    with tarfile.open(fileobj=io.BytesIO(GOOD_TAR)) as archive:
        pixels = {place for one in archive for place in range(one.offset_data, one.offset_data + one.size)}
    for attempt in range(300):
        changed, at = bytearray(content), draw.randrange(len(content))
        if name == "b.tar" and at in pixels:  # which a tar has no checksum of
            continue
        changed[at] ^= 1 << draw.randrange(8)
        try:
            found = _readable(_opened(bytes(changed), f"{attempt}-{name}"))
        except DataError:
            refused += 1
        else:
            assert found.keys() <= FEW.keys() and _same(found, FEW), attempt
    assert refused > 20


def test_an_archive_that_is_replaced_or_cut_short_meanwhile_is_not_believed() -> None:
    images = _opened(GOOD_ZIP)
    Path("photos.zip").write_bytes(zip_of({"cat/0.png": PICTURE, "dog/0.png": PICTURE}))
    with pytest.raises(DataError, match=r"cat/0\.png in .*photos\.zip: the archive has been changed since"):
        images[0]
    images = _opened(GOOD_ZIP)
    assert images[0][0].shape == (8, 8, 3)
    os.truncate("photos.zip", 100)
    with pytest.raises(DataError, match=r"cannot read the image dog/5\.png in .*: it"):
        images[11]


def test_an_image_that_is_too_large_to_hold_in_memory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_archive, "MOST_BYTES", 50)
    assert _readable(_opened(GOOD_ZIP)) == _readable(_opened(GOOD_TAR, "photos.tar")) == {}
    with pytest.raises(DataError, match="it is larger than 50 bytes"):
        _opened(GOOD_ZIP)[0]


@pytest.mark.faults
def test_memory_stays_small_however_many_members_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_archive, "Limits", Limits)
    hidden = b"".join(header(name=b".%05d" % index) for index in range(100))
    many = tar_of({"a.png": PICTURE})[:1024] + hidden * 200 + END
    for content in (many, zip_of({f"{index:06d}/{index}.txt": b"" for index in range(20_000)} | {"a.png": PICTURE})):
        tracemalloc.start()
        try:
            with contextlib.suppress(DataError):  # class folders without images
                _opened(content)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 12 * archive_names.BLOCK


def test_a_bad_archive_is_two_lines_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad").mkdir()
    Path("bad/1.tar").write_bytes(GOOD_TAR)
    Path("bad/2.tar").write_bytes(GOOD_TAR[:3000])
    for line in ("train ./bad --quiet", "train folder --data-dir bad --quiet"):
        refused(capsys, line, 3, "2.tar is cut short or damaged")
        assert not Path("runs").exists()


def test_an_archive_with_a_few_bad_images_is_trained_on_and_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    place = GOOD_TAR.index(FEW["cat/3.png"])
    Path("photos.tar").write_bytes(GOOD_TAR[:place] + bytes(40) + GOOD_TAR[place + 40 :])
    settings = f"{TINY} --set data.max_bad=0.2 --set data.validation=0 --set data.workers=2"
    code, _, err = said(capsys, f"train photos.tar --steps 2 --batch-size 24 {settings}")
    assert code == 0, err
    assert "cat/3.png in " in Path("runs/photos/bad_files.txt").read_text(encoding="utf-8")
