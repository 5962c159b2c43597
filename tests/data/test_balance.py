"""Each label equally often: exactly, and as a function of seed and step."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit import recipes
from ditkit.config import DataConfig
from ditkit.data import workers
from ditkit.data.balance import Balanced, balanced, label_ids_of
from ditkit.data.batches import Batches
from ditkit.data.resident import BatchTarget
from ditkit.errors import DataError, UsageError
from ditkit.runs.folder import RunFolder
from ditkit.runs.resume import prepare_run
from ditkit.training.loop import train

SIZES = {0: 40, 2: 7, 3: 1}  # images of each label; the label 1 has none


@dataclass
class Uneven:
    """Image i is of the level i, and its label is that of SIZES in turn."""

    knows: bool = True
    labels: tuple[str, ...] = ("a", "b", "c", "d")
    fingerprint: str = "uneven"

    def __post_init__(self) -> None:
        self.ids = np.repeat(list(SIZES), list(SIZES.values()))
        if self.knows:
            self.label_ids = self.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not self.knows and index == 3:
            raise DataError("cannot read it", "replace it")
        return np.full((2, 2, 1), index, dtype=np.uint8), int(self.ids[index])


def stream(batch_size: int = 12, seed: int = 0, **more) -> Batches:
    return Batches(Balanced(Uneven(), Uneven().ids, seed), batch_size, seed, flip=True, **more)


def indices_of(batch) -> list[int]:
    return ((batch.x_BCHW[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def test_each_label_comes_equally_often_and_each_of_its_images_too():
    labels, images = Counter(), Counter()
    for step in range(160):
        batch = stream().batch(step)
        labels.update(batch.label_B.tolist())
        images.update(indices_of(batch))
    assert labels == {0: 640, 2: 640, 3: 640}
    assert images[47] == 640 and {images[index] for index in range(40)} == {16}
    assert {images[index] for index in range(40, 47)} <= {91, 92}


def test_every_epoch_is_balanced_and_in_another_order():
    epoch = -(-len(Uneven()) // 3) * 3
    first, second = (stream(epoch).batch(step) for step in (0, 1))
    assert Counter(first.label_B.tolist()) == {0: 16, 2: 16, 3: 16}
    assert indices_of(first) != indices_of(second)
    large = [index for batch in (first, second) for index in indices_of(batch) if index < 40]
    assert len(set(large)) == 32  # none again before all were shown


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_batch_is_a_function_of_seed_and_step_whoever_makes_it(cache_bytes: int):
    straight = list(itertools.islice(stream(place=BatchTarget(cache_bytes=cache_bytes)).iterate(0), 9))
    for step in (8, 3, 5):
        again = stream(place=BatchTarget(cache_bytes=cache_bytes)).batch(step)
        assert torch.equal(again.x_BCHW, straight[step].x_BCHW) and torch.equal(again.label_B, straight[step].label_B)
        parts = [stream(share=share).batch(step) for share in (slice(0, 5), slice(5, 12))]
        assert torch.equal(torch.cat([part.x_BCHW for part in parts]), again.x_BCHW)
    assert indices_of(stream(seed=1).batch(0)) != indices_of(straight[0])
    taken = workers.iterate(stream(), 3, DataConfig(workers=1))
    assert torch.equal(next(taken).x_BCHW, straight[3].x_BCHW)
    taken.close()


def test_labels_that_a_data_set_does_not_know_are_read_once():
    ids = label_ids_of(Uneven(knows=False))
    assert ids[3] == -1 and (np.delete(ids, 3) == np.delete(Uneven().ids, 3)).all()
    shown = {
        index for step in range(40) for index in indices_of(Batches(Balanced(Uneven(), ids, 0), 12, 0).batch(step))
    }
    assert shown == set(range(48)) - {3}


def test_without_the_setting_nothing_is_changed():
    config, data = recipes.load("mnist"), Uneven()
    assert balanced(config, data) is data
    assert isinstance(balanced(replace(config, data=replace(config.data, balance=True)), data), Balanced)


def test_a_balanced_run_resumes_to_the_last_bit(tmp_path: Path):
    for label, count in (("many", 12), ("few", 2)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 20 * number).save(tmp_path / "photos" / label / f"{number}.png")
    data = {"path": str(tmp_path / "photos"), "image_size": 8, "channels": 1, "balance": True, "validation": 0}
    changes = {"data": data, "model": {"preset": "dit-pico/4", "depth": 1}, "train": {"steps": 6, "batch_size": 3}}
    config, steps = recipes.load("folder", changes), [0]
    whole = RunFolder(train(config, tmp_path / "whole", device="cpu"))
    train(
        config,
        tmp_path / "parts",
        lambda event: steps.append(event.step),
        device="cpu",
        should_stop=lambda: steps[-1] >= 3,
    )
    parts = RunFolder(train(config, tmp_path / "parts", device="cpu"))
    assert 3 in parts.checkpoint_steps()
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert (whole.checkpoint(6) / name).read_bytes() == (parts.checkpoint(6) / name).read_bytes()
    with pytest.raises(UsageError, match=r"data\.balance = true"):
        prepare_run(replace(config, data=replace(config.data, balance=False)), tmp_path / "parts")
