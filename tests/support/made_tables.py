"""Parquet tables of images, as the hub's libraries write them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image


def picture(shade: int, size: tuple[int, int] = (20, 24), file_format: str = "PNG") -> bytes:
    """An encoded image whose first pixel is a shade of red; the rest is black, and noise, so that sizes differ."""
    file, noise = io.BytesIO(), random.Random(shade).randbytes(3 * size[0] * size[1])
    image = Image.frombytes("RGB", size, noise[: len(noise) - 7 * (shade % 100)].ljust(len(noise), b"\0"))
    image.putpixel((0, 0), (shade % 256, 0, 0))
    image.save(file, file_format)
    return file.getvalue()


def table(
    images: Sequence[bytes | None],
    *,
    image: str = "image",
    plain: bool = False,
    features: dict[str, Any] | None = None,
    rows: int = 10,
    **columns: Any,
) -> bytes:
    """A table with an image column, a struct of bytes and path or `plain` bytes, and `rows` in each row group."""
    encoded = list(images) if plain else [{"bytes": one, "path": None} for one in images]
    kind = pyarrow.binary() if plain else pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = pyarrow.table({image: pyarrow.array(encoded, kind), **columns})
    if features is not None:
        noted = {"info": {"features": {image: {"_type": "Image"}, **features}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(noted)})
    file = io.BytesIO()
    pyarrow.parquet.write_table(made, file, row_group_size=rows)
    return file.getvalue()


def faces(count: int, first: int = 0) -> bytes:
    """As flwrlabs/celeba has them: Male every third, Smiling every other, 5_o_Clock_Shadow never but once."""
    numbers = range(first, first + count)
    attributes = {
        "5_o_Clock_Shadow": [number == 1 for number in numbers],
        "Male": [number % 3 == 0 for number in numbers],
        "Smiling": [number % 2 == 0 for number in numbers],
    }
    noted = {name: {"dtype": "bool", "_type": "Value"} for name in attributes}
    features = {"celeb_id": {"dtype": "int64", "_type": "Value"}, **noted}
    return table([picture(one) for one in numbers], features=features, celeb_id=list(numbers), **attributes)
