"""A network on the way from noise to images: what all images share is computed once, what hardly changes is reused.

Legend: N network calls, L distinct labels, B batch, T tokens, D width, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.dit import DiT
from ..objectives.contract import Network
from ..runtime.device import autocast

_LARGEST_TABLE = 256 << 20  # bytes; with so many labels and calls it saves little


class CachedDenoiser:
    """The network of each call that a sampler makes, for batches of images that are drawn one after the other.

    `timestep_N` are those of the calls, `labels` all that will be drawn. With `reuse` R only every R-th call goes
    through the blocks of a DiT; the others add the same difference to their own tokens (Chen et al. 2024,
    arXiv 2406.01125). Networks of other kinds are called as they are.
    """

    def __init__(self, network: Network, timestep_N: Tensor, labels: Sequence[int], *, reuse: int = 1):
        # Sharded weights are of another type, and whole only inside the network's own call.
        whole = isinstance(network, DiT) and type(network.label.weight) is nn.Parameter
        if reuse > 1 and not whole:
            raise ValueError("only a DiT has blocks whose output can be reused")
        self._network, self._reuse = network, reuse
        self._dit = network if isinstance(network, DiT) and whole else None
        self._table_NLF: Tensor | None = None
        self._row_of_label = torch.empty(0)
        self._difference_BTD: Tensor | None = None
        if self._dit is not None:
            self._tabulate(self._dit, timestep_N, sorted(set(labels)))

    @torch.inference_mode()
    def _tabulate(self, network: DiT, timestep_N: Tensor, labels: list[int]) -> None:
        device, floats = network.label.weight.device, len(timestep_N) * len(labels) * network.modulation_width()
        if 0 < floats * 4 <= _LARGEST_TABLE:
            label_L = torch.tensor(labels, device=device)
            self._table_NLF = network.modulation_table(timestep_N.to(device), label_L)
            self._row_of_label = torch.zeros(network.classes + 1, dtype=torch.int64, device=device)
            self._row_of_label[label_L] = torch.arange(len(labels), device=device)

    def reset(self) -> None:
        """Start a new batch: what the blocks added to the last one is of no use."""
        self._difference_BTD = None

    def for_step(self, call: int) -> Network:
        """The network for the call of this number, counted from 0 in every batch."""
        network = self._dit
        if network is None:
            return self._network

        def cached(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
            with autocast(x_BCHW.device, network.autocast):
                return self._output(network, call, x_BCHW, timestep_B, label_B)

        return cached

    def _output(self, network: DiT, call: int, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        rows = None if self._table_NLF is None else self._table_NLF[call][self._row_of_label[label_B]]
        if self._reuse == 1:
            return network(x_BCHW, timestep_B, label_B, rows)
        x_BTD, conditions = network.begin(x_BCHW, timestep_B, label_B, rows)
        change_BTD = self._difference_BTD
        if call % self._reuse == 0 or change_BTD is None or len(change_BTD) < len(x_BTD):
            change_BTD = self._difference_BTD = network.stack(x_BTD, conditions) - x_BTD
        # Where guidance has ended, the batch is half as long: the conditional half of what was kept comes first.
        return network.end(x_BTD + change_BTD[: len(x_BTD)], conditions)
