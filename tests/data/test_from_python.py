"""Data sets handed over in Python: any Dataset or list is trained on exactly, or refused in words."""

from __future__ import annotations

import pickle
import random
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from training_runs import digest, run

import ditkit
from ditkit.cli import app
from ditkit.config import DataConfig, RunConfig
from ditkit.data.batches import Decoded
from ditkit.data.from_python import with_data
from ditkit.data.resident import BatchTarget
from ditkit.errors import DataError, UsageError
from ditkit.events import Event, Finished, Started, Stepped


class Squares(Dataset):
    """A user's own: a bright square on black, at one of two places."""

    def __init__(self, length: int = 60):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.zeros(1, 28, 28)
        image[:, 4:12, 4 + 12 * (index % 2) : 12 + 12 * (index % 2)] = 0.5 + index / 120
        return image, index % 2


def small(**data: Any) -> RunConfig:
    return RunConfig(data=DataConfig(**{"image_size": (8, 8), "channels": 3, "validation": 2, **data}))


def images_of(items: Any, *, labels: Any = None, **data: Any) -> list[tuple[np.ndarray, int]]:
    datasets = with_data(small(**{"validation": 0, **data}), items, labels)[1]
    return [datasets.train[index] for index in range(len(datasets.train))]


RED = np.zeros((8, 8, 3), dtype=np.uint8)
RED[:4, :, 0] = 255  # the upper half; the lower one is black
FLOATS = torch.from_numpy(RED).permute(2, 0, 1) / 255


# --- it trains, and goes on to the last bit


def test_a_users_own_dataset_is_trained_stopped_and_continued_to_the_last_bit(tiny, tmp_path):
    config = tiny(data={"flip": True, "validation": 6})
    straight = run(config, tmp_path / "straight", data=Squares(), labels=["left", "right"])
    started = straight.of(Started)[0]
    assert (started.images, started.labels, started.step) == (54, ("left", "right"), 0)
    for stop in (3, 7):
        parts = run(config, tmp_path / "parts", stop_after=stop, data=Squares(), labels=["left", "right"])
        assert parts.of(Finished)[0].reason == "stopped"
    assert run(config, tmp_path / "parts", data=Squares(), labels=["left", "right"]).of(Started)[0].step == 7
    assert digest(tmp_path / "parts") == digest(tmp_path / "straight")
    trained = ditkit.load(tmp_path / "parts")
    assert [sample.label for sample in ditkit.sample(trained, ["right", "left"], steps=1)] == ["right", "left"]


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_last_bit(tiny, tmp_path):
    config, how = tiny(data={"validation": 6}), {"data": Squares(), "labels": ["left", "right"]}
    run(config, tmp_path / "straight", **how)

    def die(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 8:  # the checkpoint is of step 5
            raise SystemError("killed")

    with pytest.raises(SystemError):
        ditkit.train(config, tmp_path / "killed", die, device="cpu", **how)
    assert run(config, tmp_path / "killed", **how).of(Started)[0].step == 5
    assert digest(tmp_path / "killed") == digest(tmp_path / "straight")


def test_a_run_goes_on_with_the_same_images_only_and_says_where_they_come_from(tiny, tmp_path, capsys):
    config = tiny(train={"steps": 4})
    run(config, tmp_path / "r", stop_after=2, data=Squares())
    with pytest.raises(DataError, match="these are not the images that"):
        run(config, tmp_path / "r", data=Squares(58))
    with pytest.raises(UsageError, match=r"was started with data\.name = \"from-python\" \(now \"mnist\"\)"):
        run(config, tmp_path / "r")
    assert app.main(["train", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert "these images are handed over in Python" in err and "data=" in err
    run(config, tmp_path / "r", data=Squares())


def test_workers_in_other_processes_read_the_same(tiny, tmp_path):
    config = tiny(train={"steps": 4})
    run(config, tmp_path / "thread", data=Squares())
    run(tiny(train={"steps": 4}, data={"workers": 1, "worker_start": "fork"}), tmp_path / "process", data=Squares())
    thread, process = digest(tmp_path / "thread"), digest(tmp_path / "process")  # weights also say how many workers
    assert [thread[name] == process[name] for name in ("optimizer.safetensors", "metrics.jsonl")] == [True, True]
    opened = with_data(config, Squares())[1].train
    assert np.array_equal(pickle.loads(pickle.dumps(opened))[3][0], opened[3][0])  # noqa: S301


# --- what an item may be


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RED),
        Image.fromarray(RED).convert("P"),
        RED,
        torch.from_numpy(RED).permute(2, 0, 1),
        torch.from_numpy(RED),
        np.dstack([RED, np.full((8, 8), 255, dtype=np.uint8)]),
        FLOATS,
        FLOATS.double(),
        FLOATS.half(),
        FLOATS.bfloat16(),
        FLOATS.permute(1, 2, 0).numpy(),
        2 * FLOATS - 1,
        (2 * FLOATS - 1).numpy(),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', getattr(image, 'mode', ''))}",
)
def test_images_of_every_kind_become_the_same_pixels(image: Any) -> None:
    for item in ((image, 0), [image, np.int64(0)], {"image": image, "label": torch.tensor(0)}, image):
        ((pixels, label),) = images_of([item])
        assert np.array_equal(pixels, RED) and label == 0


def test_grey_images_and_other_sizes_are_fitted_as_files_are() -> None:
    grey = np.zeros((16, 32), dtype=np.uint8)
    ((pixels, _),) = images_of([grey], channels=1)
    assert pixels.shape == (8, 8, 1)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert images_of([clear])[0][0].min() == 255  # transparency is laid on white


@pytest.mark.parametrize(
    ("labels", "given", "names", "ids"),
    [
        ([1, 0, 2], None, ("0", "1", "2"), [1, 0, 2]),
        (["b", "a", "b"], None, ("a", "b"), [1, 0, 1]),
        (["b", "a", "b"], ["b", "a"], ("b", "a"), [0, 1, 0]),
        ([1, 0, 1], ["b", "a"], ("b", "a"), [1, 0, 1]),
        ([None, None, None], None, (), [0, 0, 0]),
    ],
)
def test_labels_are_names_or_numbers(labels: list, given: Any, names: tuple, ids: list) -> None:
    datasets = with_data(small(validation=0), [(RED, label) for label in labels], given)[1]
    assert datasets.train.labels == names
    assert [datasets.train[index][1] for index in range(3)] == ids


def test_deep_images_of_pil_are_read_by_the_white_that_is_given() -> None:
    image = Image.fromarray(RED[:, :, 0].astype(np.uint16) * 16)
    assert np.array_equal(images_of([image], channels=1, white=4080.0)[0][0], RED[:, :, :1])


def test_the_classes_of_torchvision_are_taken_also_from_a_part() -> None:
    squares: Any = Squares()
    squares.classes = ["left", "right", "above"]
    for items in (squares, Subset(squares, [0, 1, 5, 9])):
        assert with_data(small(), items)[1].train.labels == ("left", "right", "above")


def test_the_class_names_of_hugging_faces_datasets_are_taken() -> None:
    class Rows(list):
        features: ClassVar = {"image": None, "label": SimpleNamespace(names=["cat", "dog"])}

    assert with_data(small(), Rows({"image": RED, "label": index % 2} for index in range(4)))[1].train.labels == (
        "cat",
        "dog",
    )


def test_the_items_are_never_read_by_two_threads_at_once() -> None:
    class Alone(Squares):
        busy = False

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            assert not self.busy
            self.busy = True
            time.sleep(0.001)
            self.busy = False
            return super().__getitem__(index)

    train = with_data(small(), Alone(), ["a", "b"])[1].train
    batch = Decoded(train, 0, BatchTarget(threads=8)).read(np.arange(50), np.zeros(50, dtype=bool), np.arange(50))
    assert batch.x_BCHW.shape == (50, 3, 8, 8) and not batch.bad


def test_a_pair_is_for_training_and_for_validation_and_else_a_tenth_is_held_out() -> None:
    datasets = with_data(small(validation=4), (Squares(20), Squares(6)))[1]
    assert (len(datasets.train), len(datasets.validation)) == (20, 4)
    datasets = with_data(small(validation=4), Squares(30))[1]
    assert (len(datasets.train), len(datasets.validation)) == (27, 3)
    two: Any = ((RED, 0), (RED, 1))
    assert len(with_data(small(), two)[1].train) == 2
    lists = ([(RED, 0), (RED, 1)], [(RED, 1), (RED, 0)])
    assert len(with_data(small(), lists)[1].validation) == 2


# --- what is refused


class Noisy(Squares):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1, 28, 28) * 0.9, random.randrange(2)


class Stream(IterableDataset):
    def __iter__(self):
        yield from ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Noisy(), "item 59 is another one each time it is read"),
        (Stream(), r"Stream is no data set: it needs len\(data\) and data\[index\]"),
        (DataLoader(Squares()), "that is a DataLoader"),
        ({"a": RED}, "dict is no data set"),
        ("photos", "str is no data set"),
        ([], "the data set has no items"),
        (([RED, RED], [0, 1]), "those are images and labels apart"),
        ((np.stack([RED, RED]), np.array([0, 1])), "those are images and labels apart"),
        ([("cat.jpg", 0)], "item 0 of the data is str, not an image"),
        ([(RED, 0, 1)], "item 0 of the data is a tuple of 3, not an image"),
        ([{"pixels": RED}], "item 0 of the data is a dict of pixels, not an image"),
        ([(RED, 0.5)], "the label of item 0 is 0.5, neither a string nor a class number"),
        ([(RED, -1)], "the label of item 0 is -1"),
        ([(RED, True)], "the label of item 0 is True"),
        ([(RED, 0), (RED, "a")], "some labels are strings, and some are numbers"),
        ([RED, (RED, "a")], "item 1 has the label 'a', but the first item has none"),
        ([(RED.astype(np.int64), 0)], "item 0 is an image of int64"),
        ([(RED > 0, 0)], "item 0 is an image of bool"),
        ([(Image.fromarray(RED[:, :, 0].astype(np.float32)), 0)], "item 0 is an image of PIL's mode F"),
        ([(RED[:, :, :2], 0)], "item 0 has the shape 8x8x2"),
        ([(RED[None], 0)], "item 0 has the shape 1x8x8x3"),
        ([(FLOATS * 255, 0)], "floats from 0 to 255, which is neither"),
        ([((FLOATS - 0.45) / 0.22, 0)], "floats from -2.045 to 2.5, which is neither"),
        ([((FLOATS - 0.5) / 0.8, 0)], "floats from -0.625 to 0.625, which is neither"),
        ([(FLOATS * 0, 0)], "floats from 0 to 0, which is neither"),
        ([(FLOATS * 0.5 + 0.5, 0)], "floats from 0.5 to 1, which is neither"),
        ([(FLOATS * torch.nan, 0)], "floats from nan to nan"),
    ],
)
def test_what_cannot_be_known_is_refused(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_data(small(), data)


@pytest.mark.parametrize(
    ("items", "labels", "message"),
    [
        ([(RED, 2)], ["a", "b"], "item 0 has the label 2, but the names given are those of 0, 1 only"),
        ([(RED, "c")], ["a", "b"], "unknown label of item 0: 'c'"),
        ([(RED, 0)], [0, 1], r"labels are a list of names, not \[0, 1\]"),
        ([(RED, 0)], "left", "labels are a list of names, not 'left'"),
        ([(RED, 0)], ["a", "a"], "two labels have the same name"),
        ([(RED, 0)], ["a\nb"], "has a line break or a control character in it"),
        ([(RED, "a\x07")], None, "has a line break or a control character in it, of item 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(items: Any, labels: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_data(small(), items, labels)


def test_a_float_outside_the_range_of_the_others_is_refused_when_it_is_read() -> None:
    items = [(FLOATS, 0)] * 100
    items[1] = (2 * FLOATS - 1, 0)
    train = with_data(small(validation=0), items, ["a"])[1].train
    with pytest.raises(UsageError, match=r"item 1 has values from -1 to 1, the first ones are in \[0, 1\]"):
        train[1]


def test_an_unreadable_image_is_an_error_of_the_data_which_training_replaces() -> None:
    class Broken(Squares):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index == 1:
                raise OSError("truncated file")
            return super().__getitem__(index)

    train = with_data(small(validation=0), Broken(), ["a", "b"])[1].train
    with pytest.raises(DataError, match="cannot read item 1: truncated file"):
        train[1]


def test_labels_are_composed_in_whatever_way_they_are_spelled() -> None:
    items = [(RED, "e\u0301"), (RED, "\u00e9"), (RED, "b")]
    train = with_data(small(validation=0), items)[1].train
    assert train.labels == ("b", "\u00e9") and [train[index][1] for index in range(3)] == [1, 1, 0]
    assert with_data(small(validation=0), [(RED, "e\u0301")], ["\u00e9"])[1].train.labels == ("\u00e9",)
