"""`data.balance`: each label equally often, however many images it has, as a function of seed and position."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..config import RunConfig
from ..errors import DataError
from ..io.progress import progress
from ..io.text import plural
from .batches import Batch, Decoded, Reader, stream_seed
from .contract import Dataset
from .resident import BatchTarget


def balanced(config: RunConfig, data: Dataset | Reader) -> Dataset | Reader:
    """The images to train on, or, with `data.balance`, a Reader of them that shows each label equally often."""
    return Balanced(data, label_ids_of(data), config.seed) if config.data.balance else data


def label_ids_of(data: Dataset | Reader) -> np.ndarray:
    """The label id of each image, int64 (N,), -1 of one that cannot be read; read where the data does not know them."""
    ids = getattr(data, "label_ids", None)
    if ids is not None:
        return np.asarray(ids, dtype=np.int64)
    dataset: Any = data
    read = np.full(len(dataset), -1, dtype=np.int64)
    with progress(f"reading {plural(len(dataset), 'image')} for their labels (data.balance)") as show:
        for index in range(len(dataset)):
            try:
                read[index] = dataset[index][1]
            except DataError:
                continue
            show(index + 1, len(dataset))
    return read


class Balanced:
    """Images of a data set, each label equally often (a Reader).

    K labels with N images are K streams, each of which goes through its images in another order every time. An epoch
    has the next N / K (rounded up) images of each stream, so that small classes come again before large ones are
    through.
    """

    def __init__(self, data: Dataset | Reader, label_ids: np.ndarray, seed: int):
        self._data, self._label_ids, self._seed = data, label_ids, seed
        rows = np.argsort(label_ids, kind="stable")[int((label_ids < 0).sum()) :]
        present, starts = np.unique(label_ids[rows], return_index=True)
        self._labels, self._rows = present.tolist(), np.split(rows, starts[1:])
        self._each = -(-len(label_ids) // max(len(present), 1))
        self._orders: dict[tuple[int, int], np.ndarray] = {}  # of (stream, time through it): the newest two

    def __len__(self) -> int:
        return self._each * len(self._labels)

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        assert isinstance(self._data, Reader)
        return self._data.read(self.chosen(indices, positions), mirrored, positions)

    def at(self, place: BatchTarget) -> Balanced:
        data = self._data
        reader = data.at(place) if isinstance(data, Reader) else Decoded(data, self._seed, place)
        return Balanced(reader, self._label_ids, self._seed)

    def chosen(self, indices: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The image, (B,), that an index (B,) stands for at a position (B,) of the stream of batches."""
        places, streams = np.divmod(indices, len(self._labels))
        times = positions // len(self) * self._each + places  # how many images of its stream came before
        chosen = np.empty_like(indices)
        for row, (stream, time) in enumerate(zip(streams.tolist(), times.tolist(), strict=True)):
            through, place = divmod(time, len(self._rows[stream]))
            chosen[row] = self._order(stream, through)[place]
        return chosen

    def _order(self, stream: int, through: int) -> np.ndarray:
        """The images of a stream in the order of one time through it. RandomState, as for `batches.order`."""
        order = self._orders.get((stream, through))
        if order is None:
            state = np.random.RandomState(stream_seed(self._seed, f"balance/{self._labels[stream]}/{through}") % 2**32)
            order = self._orders[stream, through] = state.permutation(self._rows[stream])
            for old in [key for key in self._orders if key[0] == stream and abs(key[1] - through) > 1]:
                del self._orders[old]
        return order
