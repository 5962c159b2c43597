"""Colour profiles (ICC): what an image's numbers mean, and the same colours in sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms

IGNORED = "damaged, or not of this kind of image: ignored"  # stands for the name of such a profile
_SRGB = "sRGB"
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles, and the mode of the images that they are for
# cmsFLAGS_NOCACHE, which older Pillows do not name: a transform is used by several threads at once, and its own memory
# of the last pixel is not made for that.
_NO_CACHE: Any = 0x0040


def to_srgb(image: Image.Image, smallest: tuple[int, int] | None = None) -> tuple[Image.Image, str]:
    """The image in sRGB by its embedded profile (relative colorimetric), and the profile's name.

    One that is transformed may be made smaller before, still at least twice `smallest` (height, width): it takes long.
    The name is empty without one, and IGNORED for one that cannot be used; then the image is as it was.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode in ("1", "I", "F", "LAB") or image.mode.startswith("I;16"):
        return image, ""
    try:
        name, mode, transform = _transform(bytes(profile))
        if transform is None:
            return image, name
        if mode == "CMYK" and image.mode != mode:
            return image, IGNORED
        transparent = image.has_transparency_data
        whole = image.convert("RGBA") if transparent else image
        factor = min(image.size) // (2 * max(smallest)) if smallest else 1
        plain, alpha = whole.convert(mode), whole.getchannel("A") if transparent else None
        if factor > 1 and alpha is None:
            plain = plain.reduce(factor)
        plain = ImageCms.applyTransform(plain, transform)
        if plain is None:
            return image, IGNORED
        if alpha is not None:
            plain.putalpha(alpha)
        return plain, name
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, KeyError):
        return image, IGNORED


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, str, ImageCms.ImageCmsTransform | None]:
    """Name of a profile, mode of its images, and what makes them sRGB: nothing where they are. Raises PyCMSError."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    about: Any = source.profile
    name = " ".join((about.profile_description or "without a name").split())
    mode = _SPACES[about.xcolor_space.strip()]
    if mode == "RGB" and name.startswith(_SRGB):
        return name, mode, None
    target = ImageCms.createProfile(_SRGB)
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return name, mode, ImageCms.buildTransform(source, target, mode, "RGB", renderingIntent=intent, flags=_NO_CACHE)
