"""What a file is, by its first bytes: names lie, and much that is no weights ends in .pt."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import CheckpointError
from ..io import safetensors
from ..io.download import PAGE_STARTS

KNOWN_FILES = "ditkit reads .safetensors files, and those of torch.save (.pt, .pth, .ckpt, .bin, .pkl …)"
_FIRST = 512  # bytes that are looked at
_UNPACK = "unpack it, and import what is in it"
_STARTS = {  # what a file begins with: what it is, and what to do
    b"version https://git-lfs": (
        "a pointer of Git LFS, a text that stands for the file",
        "get the file itself: `git lfs pull`, or download it from the repository's page",
    ),
    b"\x1f\x8b": ("compressed by gzip", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF": ("an HDF5 file, as Keras writes them", KNOWN_FILES),
    b"\x93NUMPY": ("an array of NumPy's", KNOWN_FILES),
    b"GGUF": ("a GGUF file", KNOWN_FILES),
    b"\x89PNG": ("a PNG image", KNOWN_FILES),
    b"\xff\xd8\xff": ("a JPEG image", KNOWN_FILES),
    b"{": ("a text in JSON", KNOWN_FILES),
}
_DOWNLOAD = "download the file itself: the site may ask for a login, a confirmation or another address"


def is_safetensors(path: Path) -> bool:
    """Whether it is a .safetensors file, by what name ever."""
    try:
        safetensors.read_header(path)
    except (OSError, ValueError, RecursionError):
        return False
    return True


def is_text(path: Path) -> bool:
    """Whether a file begins like a text."""
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST)
        (start if len(start) < _FIRST else start[:-3]).decode("utf-8")  # a letter may be cut
    except (OSError, ValueError):
        return False
    return b"\0" not in start and bool(start)


def unusable(path: Path) -> CheckpointError | None:
    """What to say about a file that is plainly something else than weights; None where that is not plain."""
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST)
        size = path.stat().st_size
    except OSError as error:
        return CheckpointError(f"cannot read {path}: {error.strerror or error}", "check the path and its permissions")
    if not size:
        return CheckpointError(f"{path} is empty", "get the file again")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGE_STARTS):
        return CheckpointError(f"{path} is a web page, saved under the name of a file", _DOWNLOAD)
    if start[257:262] == b"ustar":
        return CheckpointError(f"{path} is a tar archive", _UNPACK)
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    if path.suffix.lower() == ".onnx":
        return CheckpointError(f"{path} is a network in ONNX, not weights by name", KNOWN_FILES)
    for begin, (what, hint) in _STARTS.items():
        if start.startswith(begin):
            return CheckpointError(f"{path} is {what}", hint)
    if path.suffix.lower() == ".safetensors":
        return CheckpointError(f"{path} is no .safetensors file, or its beginning is damaged", "get the file again")
    return None


def _zip(path: Path) -> CheckpointError | None:
    """About an archive, as torch.save writes them, too."""
    if not zipfile.is_zipfile(path):
        return CheckpointError(f"{path} is cut short: its end is missing", "get the file again")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return CheckpointError(f"{path} is a damaged zip archive", "get the file again")
    if any(name.endswith("/constants.pkl") for name in names):
        save = 'torch.save(torch.jit.load("FILE").state_dict(), "weights.pt")'
        return CheckpointError(f"{path} is a TorchScript program, not weights alone", f"in Python: `{save}`")
    if any(name.endswith("/data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return CheckpointError(f"{path} holds arrays of NumPy's", KNOWN_FILES)
    listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return CheckpointError(f"{path} is a zip archive of {listed or 'nothing'}", _UNPACK)
