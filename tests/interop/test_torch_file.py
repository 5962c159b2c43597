"""Files of torch.save are read as data: the owner's own whatever is in them, hostile ones without harm."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import Limit
from torch import _utils

from ditkit.errors import CheckpointError
from ditkit.interop import torch_file
from ditkit.interop.detect import read_foreign
from ditkit.interop.state_dicts import find_networks, metadata
from ditkit.interop.unpickle import Unread

WEIGHTS = {"x.weight": torch.arange(6.0).view(2, 3), "x.bias": torch.ones(2, dtype=torch.bfloat16)}


class Path2(enum.Enum):
    LINEAR = "linear"


class Settings(dict):
    """As EasyDict: a dict with attributes."""


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.x = torch.nn.Linear(3, 2)
        self.register_buffer("table", torch.ones(2))


CHECKPOINT: dict[str, Any] = {
    "ema": WEIGHTS,
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "none": torch.empty(0),
    "small": torch.ones(3, dtype=torch.uint16),
    "args": argparse.Namespace(out=Path("/data/x"), device=torch.device("cuda:0"), size=torch.Size([1, 2])),
    "best": np.float64(9.5),
    "count": np.int64(4),
    "word": np.str_("naïve"),
    "array": np.arange(3),
    "time": datetime.datetime(2024, 1, 2),
    "lists": collections.defaultdict(list, {"a": [1]}),
    "ordered": collections.OrderedDict(b=1),
    "set": {1},
    "kind": Path2.LINEAR,
    "settings": Settings(lr=1e-4),
    "large": 2**80,
}
PLAIN = {
    "args": {"out": "/data/x", "device": "cuda:0", "size": [1, 2]},
    "best": 9.5,
    "count": 4,
    "word": "naïve",
    "lists": {"a": [1]},
    "ordered": {"b": 1},
    "set": [1],
    "kind": "linear",
    "settings": {"lr": 1e-4},
    "large": 2**80,
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_whatever_the_owner_stored_beside_the_weights_they_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.save(CHECKPOINT, tmp_path / "x.pt", **options)
    tree = torch_file.read(tmp_path / "x.pt")
    for name, value in WEIGHTS.items():
        assert torch.equal(tree["ema"][name], value) and tree["ema"][name].dtype == value.dtype
    for name in ("parameter", "turned", "none", "small"):
        assert torch.equal(tree[name], CHECKPOINT[name])
    about = metadata(tree)
    assert {name: about[name] for name in PLAIN} == PLAIN and about["array"] is about["time"] is None


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_of_tensors_are_read(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(CHECKPOINT, protocol))
    tree = torch_file.read(tmp_path / "x.pkl")
    assert torch.equal(tree["ema"]["x.weight"], WEIGHTS["x.weight"])
    assert {name: metadata(tree)[name] for name in PLAIN} == PLAIN


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_of_a_whole_module_the_tensors_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    layer = torch.nn.Sequential(Layer(), torch.nn.Linear(2, 2))
    torch.save({"ema": layer}, tmp_path / "x.pt", **options)
    (network,) = find_networks(torch_file.read(tmp_path / "x.pt"), "0.x.weight")
    assert network.tensors.keys() == layer.state_dict().keys() and network.is_averaged
    assert all(torch.equal(value, network.tensors[name]) for name, value in layer.state_dict().items())


def test_tensors_are_mapped_not_copied_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    torch_file.read(tmp_path / "x.pt")["x.weight"].zero_()
    assert (tmp_path / "x.pt").read_bytes() == before


# --- hostile files


class _Call:
    def __init__(self, function: Any, *arguments: Any):
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def test_nothing_that_a_pickle_names_is_imported_or_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called, real = list[str](), __import__

    def note(name: str, *arguments: Any) -> Any:
        called.append(name)
        return real(name, *arguments)

    monkeypatch.setattr("builtins.__import__", note)
    content = b"\x80\x04cantigravity\nfly\n(S'a'\ntR."
    (tmp_path / "x.pt").write_bytes(content)
    tree = torch_file.read(tmp_path / "x.pt")
    assert isinstance(tree, Unread) and (tree.name, tree.arguments) == ("antigravity.fly", ("a",))
    assert not any("antigravity" in name for name in called)


def refused(path: Path, words: str, seconds: float = 5.0) -> None:
    limit = Limit(seconds)
    with pytest.raises(CheckpointError, match=words):
        torch_file.read(path)
    assert not limit.is_over()


def zipped(path: Path, data: bytes, storages: dict[str, bytes]) -> Path:
    """A file of torch.save's format with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        for name, content in storages.items():
            archive.writestr(f"x/data/{name}", content)
    return path


class _Pickler(pickle.Pickler):
    """Pickles ("storage", …) tuples as references, as torch.save does."""

    def persistent_id(self, obj: Any) -> Any:
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None


class _Tensor:
    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return _utils._rebuild_tensor_v2, self.arguments


def pickled(tree: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, 2).dump(tree)
    return file.getvalue()


def storage(count: int, name: str = "0") -> tuple[Any, ...]:
    return ("storage", torch.FloatStorage, name, "cpu", count)


def test_a_tensor_may_not_show_its_numbers_more_than_once(tmp_path: Path) -> None:
    tensor = _Tensor(storage(1), 0, (1 << 30,), (0,), False, None)
    path = zipped(tmp_path / "x.pt", pickled({"x": tensor}), {"0": bytes(4)})
    refused(path, "larger than the numbers stored for it")
    tensor = _Tensor(storage(4), 2, (4,), (1,), False, None)
    path = zipped(tmp_path / "y.pt", pickled({"x": tensor}), {"0": bytes(16)})
    refused(path, "beyond the numbers stored for it")


@pytest.mark.parametrize("count", [1 << 40, 1 << 62, -1, "1"])
def test_a_storage_may_not_be_larger_than_the_file(tmp_path: Path, count: Any) -> None:
    tensor = _Tensor(storage(count), 0, (1,), (1,), False, None)
    refused(
        zipped(tmp_path / "x.pt", pickled({"x": tensor}), {"0": bytes(4)}), "shorter than its tensors|sensible size"
    )


def test_many_tensors_of_the_same_numbers_are_refused(tmp_path: Path) -> None:
    whole = torch.ones(1000)
    state = {"x_embedder.proj.weight": whole, **{f"blocks.{n}.x": whole.view(10, 100) for n in range(9)}}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="many tensors of the same numbers"):
        read_foreign(tmp_path / "x.pt")


def test_storages_may_not_share_their_bytes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pt", pickled([storage(250, str(n)) for n in range(9)]), {str(n): b"" for n in range(9)})
    content = bytearray(path.read_bytes() + bytes(1000))
    directory = content.index(b"PK\x01\x02")
    while (directory := content.find(b"PK\x01\x02", directory)) >= 0:
        content[directory + 24 : directory + 28] = struct.pack("<I", 1000)
        directory += 4
    path.write_bytes(content)
    refused(path, "shorter than its tensors|damaged")


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled({"x": _Tensor(storage(1 << 24), 0, (1 << 24,), (1,), False, None)}))
        archive.writestr("x/data/0", bytes(1 << 26))
    refused(tmp_path / "x.pt", "compressed")


def test_keys_that_take_for_ever_to_hash_are_none(tmp_path: Path) -> None:
    # {nested: 1}, where nested is a tuple of a tuple twice, 60 times: 2**60 of them
    content = b"\x80\x02})q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00K\x01s."
    (tmp_path / "x.pt").write_bytes(content)
    limit = Limit(5)
    (key,) = torch_file.read(tmp_path / "x.pt")
    assert isinstance(key, Unread) and not limit.is_over()
    colliding = {n * ((1 << 61) - 1): None for n in range(1, 3)}
    (tmp_path / "y.pt").write_bytes(pickle.dumps(colliding))
    assert all(isinstance(key, Unread) for key in torch_file.read(tmp_path / "y.pt"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02" + b"]" * 400_000 + b".", "more than 300,000 parts"),
        (
            b"\x80\x02]q\x00(" + b"K\x01" * 100_000 + b"e" + b"cbuiltins\nset\nh\x00\x85R0" * 1000 + b".",
            "again and again",
        ),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 61) + b"x.", "damaged"),
        (b"\x80\x04p99999999999999999999\n.", "damaged"),
        (b"\x80\x04Np99999999999999999999\n.", "in places that no writer uses"),
        (b"\x80\x04\x82\x01.", "outside of the file"),
        (b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999, "damaged"),
    ],
)
def test_hostile_pickles_take_neither_time_nor_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    monkeypatch.setattr("ditkit.interop.unpickle._MOST", 300_000)
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", words, seconds=20)


def test_what_is_nested_deeply_or_holds_itself_is_read(tmp_path: Path) -> None:
    for content in (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."):
        (tmp_path / "x.pt").write_bytes(content)
        tree = torch_file.read(tmp_path / "x.pt")
        assert find_networks(tree, "x.weight") == [] and metadata({"a": tree})


def test_very_many_tables_and_networks_are_looked_through_in_time() -> None:
    limit = Limit(10)
    state = {f"{number}.x.weight": torch.ones(1) for number in range(500)}
    tree = {"many": {str(number): {} for number in range(100_000)}, "networks": [state, *([state] * 40)]}
    assert 0 < len(find_networks(tree, "x.weight")) < 100
    assert not limit.is_over()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["x/data.pkl", "x/constants.pkl"], "TorchScript"),
        (["a.txt", "b.npy"], r"is a zip archive of a.txt, b.npy"),
        (["a.npy", "b.npy"], "arrays of NumPy"),
        (["x/data.pkl", "y/data.pkl"], "damaged"),
    ],
)
def test_other_archives_are_called_what_they_are(tmp_path: Path, names: list[str], words: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02N.")
    refused(tmp_path / "x.pt", words)
