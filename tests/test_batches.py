"""The batch stream is a function of (seed, step), whatever the threads do."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ditkit.data.batches import Batches, flips, order
from ditkit.errors import DitkitError


@dataclass
class Ramps:
    """Image i is a horizontal ramp that starts at i, so that both its index and a flip can be read off."""

    count: int
    bad: int | None = None
    reads: list[int] = field(default_factory=list)
    labels: tuple[str, ...] = ("even", "odd")
    fingerprint: str = "ramps"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index == self.bad:
            raise DitkitError(f"cannot read the image {index}.png", "replace it")
        self.reads.append(index)
        row = np.array([index, index + 1, 255], dtype=np.uint8)
        return np.broadcast_to(row[None, :, None], (2, 3, 1)).copy(), index % 2


def _indices(images: torch.Tensor) -> list[int]:
    """Which images a batch holds, flipped or not."""
    pixels = ((images[:, 0, 0] + 1) * 127.5).round().long()
    return torch.minimum(pixels[:, 0], pixels[:, 2]).tolist()


def _first(batches: Batches, start: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    iterator = batches.iterate(start)
    taken = list(itertools.islice(iterator, count))
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]
    return taken


def test_images_are_float32_in_minus_one_to_one_and_end_points_are_exact():
    images, labels = Batches(Ramps(5), 5, seed=0).batch(0)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (5, 1, 2, 3) and images.is_contiguous()
    assert images.min() == -1 and images.max() == 1


def test_labels_stay_with_their_images():
    images, labels = Batches(Ramps(40), 64, seed=3, flip=True).batch(2)
    assert labels.tolist() == [index % 2 for index in _indices(images)]


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    batches = Batches(Ramps(30), 10, seed=1)
    seen = [index for step in range(6) for index in _indices(batches.batch(step)[0])]
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30] != seen[30:] and seen[:30] != list(range(30))


def test_another_seed_gives_another_order_and_the_same_seed_the_same():
    def indices(seed: int) -> list[int]:
        return _indices(Batches(Ramps(50), 50, seed).batch(0)[0])

    assert indices(1) == indices(1) != indices(2)


def test_the_order_of_an_epoch_is_frozen_for_good():
    assert order(0, 0, 8).tolist() == [4, 5, 6, 7, 1, 0, 3, 2]
    assert flips(0, np.arange(16)).astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [3, 7, 100], ids=["n<B", "crossing", "n>B"])
def test_iterating_from_step_k_gives_the_batches_k_on(count: int, workers: int, cache_bytes: int):
    straight = _first(Batches(Ramps(count), 8, seed=5, flip=True), 0, 12)
    for start in (0, 1, 7):
        resumed = Batches(Ramps(count), 8, seed=5, flip=True, workers=workers, cache_bytes=cache_bytes)
        for (images, labels), (again, labels_again) in zip(
            straight[start:], _first(resumed, start, 12 - start), strict=True
        ):
            assert torch.equal(images, again) and torch.equal(labels, labels_again)


def test_a_set_smaller_than_a_batch_fills_it_by_crossing_epochs():
    indices = _indices(Batches(Ramps(3), 9, seed=0).batch(0)[0])
    assert [sorted(indices[at : at + 3]) for at in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_flips_are_fair_differ_between_epochs_and_are_off_by_default():
    bits = flips(7, np.arange(20_000))
    assert abs(bits.mean() - 0.5) < 0.02
    assert abs((bits[1:] == bits[:-1]).mean() - 0.5) < 0.02
    images, _ = Batches(Ramps(10), 10_000, seed=7, flip=True).batch(0)
    mirrored = images[:, 0, 0, 0] > images[:, 0, 0, 2]
    assert mirrored.tolist() == flips(7, np.arange(10_000)).tolist()
    for index in range(10):
        share = mirrored[torch.tensor(_indices(images)) == index].float().mean()
        assert 0.4 < share < 0.6
    plain, _ = Batches(Ramps(10), 1000, seed=7).batch(0)
    assert not (plain[:, 0, 0, 0] > plain[:, 0, 0, 2]).any()


def test_flipping_never_reaches_the_cached_images():
    batches = Batches(Ramps(4), 4, seed=0, flip=True)
    for step in range(20):
        images, _ = batches.batch(step)
        assert sorted(_indices(images)) == [0, 1, 2, 3]
        assert torch.equal(images, Batches(Ramps(4), 4, seed=0, flip=True).batch(step)[0])


def test_images_are_decoded_once_when_the_set_fits_in_memory_and_each_time_when_it_does_not():
    fitting, large = Ramps(20), Ramps(20)
    kept = Batches(fitting, 20, seed=0, cache_bytes=20 * 6)
    forgetful = Batches(large, 20, seed=0, cache_bytes=20 * 6 - 1)
    fitting.reads.clear()
    large.reads.clear()
    for step in range(3):
        assert torch.equal(kept.batch(step)[0], forgetful.batch(step)[0])
    assert sorted(fitting.reads) == list(range(20))
    assert len(large.reads) == 60


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_raised_when_its_batch_is_asked_for_and_the_threads_end(workers: int):
    bad = int(order(0, 0, 40)[25])  # position 25: in batch 2 of 10
    iterator = Batches(Ramps(40, bad=bad), 10, seed=0, workers=workers).iterate()
    next(iterator)
    next(iterator)
    with pytest.raises(DitkitError, match=f"cannot read the image {bad}.png"):
        next(iterator)
    assert not _threads()


@pytest.mark.parametrize("workers", [0, 3])
def test_closing_the_iterator_ends_its_threads(workers: int):
    iterator = Batches(Ramps(40), 10, seed=0, workers=workers).iterate(5)
    next(iterator)
    assert _threads()
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not _threads()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ditkit-batches")]


def test_an_empty_dataset_is_refused():
    with pytest.raises(DitkitError, match="no images"):
        Batches(Ramps(0), 4, seed=0)


def test_a_dataset_that_gives_images_of_two_sizes_is_refused():
    class Uneven(Ramps):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.zeros((2, 3 + index, 1), dtype=np.uint8), 0

    with pytest.raises(DitkitError, match=r"image \d of the dataset is uint8 \(2, \d, 1\), not uint8 \(2, 3, 1\)"):
        Batches(Uneven(4), 4, seed=0).batch(0)
