"""What sampling gives can be looked at, saved and computed with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditkit
from ditkit.errors import UsageError
from ditkit.sampling.samples import Sample

GREY = Sample(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), "a", 3)
COLOUR = Sample(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), None, 4)


@pytest.mark.parametrize(("sample", "mode"), [(GREY, "L"), (COLOUR, "RGB")])
def test_a_sample_is_a_picture_an_array_and_what_a_notebook_shows(sample: Sample, mode: str) -> None:
    assert sample.pil.mode == mode and sample.pil.size == (8, 8)
    assert np.asarray(sample) is sample.image
    assert np.asarray(sample, dtype=np.float32).dtype == np.float32
    with Image.open(io.BytesIO(sample._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), sample.image.squeeze())
    assert repr(GREY) == "Sample(label='a', seed=3)"


def test_a_saved_sample_says_its_label_and_seed(tmp_path: Path) -> None:
    GREY.save(tmp_path / "a.png", {"by": "me"})
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.info["label"], picture.info["seed"], picture.info["by"]) == ("a", "3", "me")
        assert np.array_equal(np.asarray(picture), GREY.image[:, :, 0])
    COLOUR.save(tmp_path / "b.webp")
    with Image.open(tmp_path / "b.webp") as picture:
        assert picture.format == "WEBP"


def test_a_grid_of_samples_is_one_picture(tmp_path: Path) -> None:
    ditkit.save_grid([GREY] * 6, tmp_path / "wide.png")
    ditkit.save_grid([GREY] * 6, tmp_path / "tall.png", columns=1)
    with Image.open(tmp_path / "wide.png") as wide, Image.open(tmp_path / "tall.png") as tall:
        assert wide.width > wide.height and tall.height > tall.width
    with pytest.raises(UsageError, match="no samples"):
        ditkit.save_grid([], tmp_path / "none.png")
