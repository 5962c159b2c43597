"""The batch stream is a function of (seed, step), whatever the threads and processes do."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import Limit, scaled

from ditkit.config import DataConfig
from ditkit.data import workers as data_workers
from ditkit.data.batches import Batches, flips, order, replacements
from ditkit.data.resident import BatchTarget
from ditkit.errors import DataError
from ditkit.registry import DATASETS


@dataclass
class Ramps:
    """Image i is a horizontal ramp that starts at i, so that both its index and a flip can be read off."""

    count: int
    bad: tuple[int, ...] = ()
    reads: list[int] = field(default_factory=list)
    labels: tuple[str, ...] = ("even", "odd")
    fingerprint: str = "ramps"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index in self.bad:
            raise DataError(f"cannot read the image {index}.png", "replace it")
        self.reads.append(index)
        row = np.array([index, index + 1, 255], dtype=np.uint8)
        return np.broadcast_to(row[None, :, None], (2, 3, 1)).copy(), index % 2


@dataclass
class Hanging(Ramps):
    """Reading some of the images, in a process of its own, does not end."""

    hangs: Sequence[int] = ()

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if multiprocessing.parent_process() is not None and index in self.hangs:
            time.sleep(3600)
        return super().__getitem__(index)


def needs(method: str) -> pytest.MarkDecorator:
    """Skips where processes cannot start so, or had better not: macOS breaks what is forked beside threads."""
    there = method in multiprocessing.get_all_start_methods() and (method, sys.platform) != ("fork", "darwin")
    return pytest.mark.skipif(not there, reason=f"no {method} on this system")


def _indices(images: torch.Tensor) -> list[int]:
    """Which images a batch holds, flipped or not."""
    pixels = ((images[:, 0, 0] + 1) * 127.5).round().long()
    return torch.minimum(pixels[:, 0], pixels[:, 2]).tolist()


def _pair(batches: Batches, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = batches.batch(step)
    return batch.x_BCHW, batch.label_B


def _first(batches: Batches, start: int, count: int, **data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    iterator = data_workers.iterate(batches, start, DataConfig(**data))
    taken = [(batch.x_BCHW.clone(), batch.label_B.clone()) for batch in itertools.islice(iterator, count)]
    iterator.close()
    return taken


def test_images_are_float32_in_minus_one_to_one_and_end_points_are_exact():
    images, labels = _pair(Batches(Ramps(5), 5, seed=0), 0)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (5, 1, 2, 3) and images.is_contiguous()
    assert images.min() == -1 and images.max() == 1


def test_labels_stay_with_their_images():
    images, labels = _pair(Batches(Ramps(40), 64, seed=3, flip=True), 2)
    assert labels.tolist() == [index % 2 for index in _indices(images)]


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    batches = Batches(Ramps(30), 10, seed=1)
    seen = [index for step in range(6) for index in _indices(batches.batch(step).x_BCHW)]
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30] != seen[30:] and seen[:30] != list(range(30))


def test_another_seed_gives_another_order_and_the_same_seed_the_same():
    def indices(seed: int) -> list[int]:
        return _indices(Batches(Ramps(50), 50, seed).batch(0).x_BCHW)

    assert indices(1) == indices(1) != indices(2)


def test_the_order_of_an_epoch_is_frozen_permanently():
    assert order(0, 0, 8).tolist() == [4, 5, 6, 7, 1, 0, 3, 2]
    assert flips(0, np.arange(16)).astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
@pytest.mark.parametrize("count", [3, 7, 100], ids=["n<B", "crossing", "n>B"])
def test_iterating_from_step_k_gives_the_batches_k_on(count: int, cache_bytes: int):
    straight = _first(Batches(Ramps(count), 8, seed=5, flip=True), 0, 12)
    for start in (0, 1, 7):
        resumed = Batches(Ramps(count), 8, seed=5, flip=True, place=BatchTarget(cache_bytes=cache_bytes))
        assert _equal(straight[start:], _first(resumed, start, 12 - start))


@pytest.mark.parametrize(
    ("workers", "start"),
    [
        pytest.param(1, "fork", marks=needs("fork")),
        pytest.param(2, "fork", marks=needs("fork")),
        (1, "spawn"),
        pytest.param(2, "forkserver", marks=[needs("forkserver"), pytest.mark.slow]),
    ],
)
def test_processes_give_the_batches_that_a_thread_gives_and_end_with_the_iterator(workers: int, start: str):
    straight = _first(Batches(Ramps(40), 8, seed=5, flip=True), 3, 6)
    before = torch.get_rng_state()
    others = set(multiprocessing.active_children())
    again = _first(Batches(Ramps(40), 8, seed=5, flip=True), 3, 6, workers=workers, worker_start=start)
    assert _equal(straight, again)
    assert torch.equal(before, torch.get_rng_state())
    assert set(multiprocessing.active_children()) <= others


MINE = """
from test_batches import Ramps

class Mine(Ramps):
    pass

def dataset(config, split):
    return Mine(40)
"""


@pytest.mark.parametrize("start", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_data_set_from_a_file_is_known_in_worker_processes(start: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(DATASETS, "_added", {})
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    dataset = DATASETS.load(DATASETS.add_file(Path("mine.py")))(None, "train")
    assert _equal(
        _first(Batches(dataset, 8, 5), 0, 3), _first(Batches(dataset, 8, 5), 0, 3, workers=1, worker_start=start)
    )


def test_a_data_set_that_cannot_be_sent_to_processes_is_one_clear_error():
    class Local(Ramps):
        pass

    with pytest.raises(DataError, match=r"cannot be sent to worker processes \(.*local object") as caught:
        _first(Batches(Local(40), 8, 5), 0, 3, workers=1, worker_start="spawn")
    assert "data.workers=0" in str(caught.value.hint) and not multiprocessing.active_children()


def test_a_way_to_start_processes_that_this_system_has_not_is_left_out(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])  # as on Windows
    assert data_workers._start("fork") is None and data_workers._start("auto") is None
    assert data_workers._start("spawn") == "spawn"


def test_more_processes_than_cores_are_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert len(_first(Batches(Ramps(40), 8, seed=5), 0, 2, workers=2)) == 2


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_all_processes_make_up_the_batch(size: int):
    whole = Batches(Ramps(40), 8, seed=1, flip=True).batch(4)
    shares = [slice(rank * 8 // size, (rank + 1) * 8 // size) for rank in range(size)]
    parts = [Batches(Ramps(40), 8, seed=1, flip=True, share=share).batch(4) for share in shares]
    assert torch.equal(torch.cat([part.x_BCHW for part in parts]), whole.x_BCHW)
    assert torch.equal(torch.cat([part.label_B for part in parts]), whole.label_B)


def _equal(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other) for pair in zip(first, second, strict=True) for one, other in zip(*pair, strict=True)
    )


def test_a_set_smaller_than_a_batch_fills_it_by_crossing_epochs():
    indices = _indices(Batches(Ramps(3), 9, seed=0).batch(0).x_BCHW)
    assert [sorted(indices[at : at + 3]) for at in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_flips_are_fair_differ_between_epochs_and_are_off_by_default():
    bits = flips(7, np.arange(20_000))
    assert abs(bits.mean() - 0.5) < 0.02
    assert abs((bits[1:] == bits[:-1]).mean() - 0.5) < 0.02
    images, _ = _pair(Batches(Ramps(10), 10_000, seed=7, flip=True), 0)
    mirrored = images[:, 0, 0, 0] > images[:, 0, 0, 2]
    assert mirrored.tolist() == flips(7, np.arange(10_000)).tolist()
    for index in range(10):
        share = mirrored[torch.tensor(_indices(images)) == index].float().mean()
        assert 0.4 < share < 0.6
    plain, _ = _pair(Batches(Ramps(10), 1000, seed=7), 0)
    assert not (plain[:, 0, 0, 0] > plain[:, 0, 0, 2]).any()


def test_flipping_never_reaches_the_cached_images():
    batches = Batches(Ramps(4), 4, seed=0, flip=True)
    for step in range(20):
        images, _ = _pair(batches, step)
        assert sorted(_indices(images)) == [0, 1, 2, 3]
        assert torch.equal(images, Batches(Ramps(4), 4, seed=0, flip=True).batch(step).x_BCHW)


def test_images_are_decoded_once_when_the_set_fits_in_memory_and_each_time_when_it_does_not():
    fitting, large = Ramps(20), Ramps(20)
    kept = Batches(fitting, 20, seed=0, place=BatchTarget(cache_bytes=20 * 6))
    forgetful = Batches(large, 20, seed=0, place=BatchTarget(cache_bytes=20 * 6 - 1))
    fitting.reads.clear()
    large.reads.clear()
    for step in range(3):
        assert torch.equal(kept.batch(step).x_BCHW, forgetful.batch(step).x_BCHW)
    assert sorted(fitting.reads) == list(range(20))
    assert len(large.reads) == 60


def test_a_set_that_fits_on_the_device_is_decoded_once_and_its_batches_are_made_there_to_the_last_bit():
    bad = (int(order(0, 0, 250)[25]),)
    fitting, large = Ramps(250, bad), Ramps(250, bad)  # every value of a pixel
    there = Batches(fitting, 40, seed=0, flip=True, place=BatchTarget(torch.device("cpu"), 250 * 6, cache_bytes=0))
    too_large = Batches(
        large, 40, seed=0, flip=True, place=BatchTarget(torch.device("cpu"), 250 * 6 - 1, cache_bytes=0)
    )
    fitting.reads.clear()
    large.reads.clear()
    for step in (3, 0, *range(14)):
        one, other = there.batch(step), too_large.batch(step)
        assert torch.equal(one.x_BCHW, other.x_BCHW) and torch.equal(one.label_B, other.label_B)
        assert one.x_BCHW.is_contiguous() and one.x_BCHW.dtype == torch.float32
    assert sorted(set(fitting.reads)) == [index for index in range(250) if index not in bad]
    assert (len(fitting.reads), len(large.reads)) == (250, 16 * 40)  # one of them in the place of the bad one, too


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
def test_several_threads_decode_the_same_batches_and_note_the_same_bad_images(cache_bytes: int):
    class Uneven(Ramps):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            time.sleep(index % 3 / 1000)  # so that they end in another order
            threads.add(threading.current_thread().name.partition("_")[0])
            return super().__getitem__(index)

    threads: set[str] = set()
    bad = tuple(order(0, 0, 60)[[3, 5, 25]].tolist())
    one = Batches(Ramps(60, bad), 20, seed=0, flip=True, place=BatchTarget(cache_bytes=cache_bytes))
    several = Batches(
        Uneven(60, bad),
        20,
        seed=0,
        flip=True,
        place=BatchTarget(torch.device("cpu"), threads=4, cache_bytes=cache_bytes),
    )
    for step in (0, 1, 2, 3):
        here, there = one.batch(step), several.batch(step)
        assert torch.equal(here.x_BCHW, there.x_BCHW) and torch.equal(here.label_B, there.label_B)
        assert list(here.bad.items()) == list(there.bad.items())
    assert "ditkit-decode" in threads
    with pytest.raises(DataError, match="hardly any image can be read"):
        Batches(Ramps(40, tuple(range(1, 40))), 40, seed=0, place=BatchTarget(torch.device("cpu"), threads=4)).batch(0)


def test_images_that_are_read_only_or_run_backwards_are_kept_on_the_device_too():
    class Views(Ramps):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            image, label = super().__getitem__(index)
            image.flags.writeable = False
            return image[:, ::-1], label

    one, other = (
        Batches(Views(9), 9, seed=0, place=BatchTarget(torch.device("cpu"), 1 << 20)),
        Batches(Views(9), 9, seed=0),
    )
    assert torch.equal(one.batch(0).x_BCHW, other.batch(0).x_BCHW)


def test_a_bad_image_is_replaced_by_one_that_seed_and_index_alone_decide_and_is_named_once():
    bad = int(order(0, 0, 40)[25])
    batches = Batches(Ramps(40, bad=(bad,)), 10, seed=0)
    third = batches.batch(2)
    shown = _indices(third.x_BCHW)
    assert third.bad == {bad: f"cannot read the image {bad}.png"}
    assert shown[5] == next(replacements(0, bad, 40)) != bad
    assert third.label_B.tolist() == [index % 2 for index in shown]
    assert batches.batch(2).bad == {}
    later = Batches(Ramps(40, bad=(bad,)), 10, seed=0, place=BatchTarget(cache_bytes=0))
    assert torch.equal(later.batch(2).x_BCHW, third.x_BCHW)
    assert torch.equal(later.batch(0).x_BCHW, Batches(Ramps(40), 10, seed=0).batch(0).x_BCHW)


def test_a_bad_image_in_a_process_is_replaced_the_same_way():
    bad = tuple(int(index) for index in order(0, 0, 40)[[3, 25]])
    with_thread = _first(Batches(Ramps(40, bad=bad), 10, seed=0), 0, 4)
    with_processes = _first(Batches(Ramps(40, bad=bad), 10, seed=0), 0, 4, workers=2)
    assert _equal(with_thread, with_processes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_without_a_readable_image_is_refused(workers: int):
    with pytest.raises(DataError, match="hardly any image can be read"):
        _first(Batches(Ramps(40, bad=tuple(range(40))), 10, seed=0), 0, 1, workers=workers)
    some = Ramps(40, bad=tuple(range(1, 40)))
    with pytest.raises(DataError, match="hardly any image can be read"):
        _first(Batches(some, 40, seed=0), 0, 9, workers=workers)
    assert not _threads()


def test_closing_the_iterator_ends_its_threads():
    iterator = Batches(Ramps(40), 10, seed=0).iterate(5)
    next(iterator)
    assert _threads()
    iterator.close()
    assert not _threads()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


@needs("fork")
def test_workers_ignore_the_signals_that_reach_the_whole_group_and_hanging_ones_are_ended(impatient: None):
    others = set(multiprocessing.active_children())
    hangs = order(0, 0, 200).tolist().index(7) // 10  # this batch
    data = DataConfig(workers=1, worker_start="fork")
    iterator = data_workers.iterate(Batches(Hanging(200, hangs=[7]), 10, seed=0), hangs - 1, data)
    next(iterator)
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    time.sleep(0.1)
    assert worker.is_alive()
    limit = Limit(20)
    iterator.close()
    assert not worker.is_alive() and not limit.is_over()


@pytest.mark.slow
def test_a_worker_that_hangs_is_reported_after_the_time_limit(impatient: None):
    iterator = data_workers.iterate(
        Batches(Hanging(20, hangs=range(20)), 4, seed=0), 0, DataConfig(workers=1, worker_timeout=round(scaled(3)))
    )
    with pytest.raises(RuntimeError) as caught:
        next(iterator)
    assert data_workers.lost_a_worker(caught.value) and not data_workers.lost_a_worker(RuntimeError("other"))


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ditkit-batches")]


def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="no images"):
        Batches(Ramps(0), 4, seed=0)


def test_a_dataset_that_gives_images_of_two_sizes_is_refused():
    class Uneven(Ramps):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.zeros((2, 3 + index, 1), dtype=np.uint8), 0

    with pytest.raises(DataError, match=r"image \d of the dataset is uint8 \(2, \d, 1\), not uint8 \(2, 3, 1\)"):
        Batches(Uneven(4), 4, seed=0).batch(0)


class Noisy:
    """Tells when the interpreter is torn down."""

    def __del__(self, write=os.write) -> None:  # bound, because modules go first
        write(2, b"torn down")


class Leaving(Ramps):
    """Leaves something behind that only the end of the interpreter takes away."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if multiprocessing.parent_process() is not None and not hasattr(sys, "noisy"):
            sys.noisy = Noisy()  # pyright: ignore[reportAttributeAccessIssue]
        return super().__getitem__(index)


def test_spawned_workers_end_without_tearing_down_what_threads_of_torch_may_still_use(capfd):
    stream = data_workers.iterate(Batches(Leaving(20), 4, seed=0), 0, DataConfig(workers=1, worker_start="spawn"))
    next(stream)
    stream.close()
    assert capfd.readouterr().err == ""


def test_batches_are_pinned_by_the_thread_that_prepares_them_and_only_when_asked(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(threading.current_thread().name) or self)
    for pin in (False, True):
        stream = Batches(Ramps(10), 4, 0, place=BatchTarget(torch.device("cuda" if pin else "cpu"))).iterate()
        assert len(next(stream).label_B) == 4
        stream.close()
        assert bool(pinned) is pin
    assert all(name.startswith("ditkit-batches") for name in pinned)
