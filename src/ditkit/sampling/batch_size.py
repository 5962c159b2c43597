"""How many images are drawn at once. C channels, H W image."""

from __future__ import annotations

from itertools import pairwise

import torch

from ..models.dit import DiT
from ..objectives.contract import Network
from ..runtime.device import free_bytes

_CACHED_TOKENS = 3072  # tokens at once whose activations about stay in a processor's cache
_MOST_AT_ONCE = 256  # images


def batches_of(images: int, batch_size: int) -> list[slice]:
    """As few batches of at most `batch_size` as will do, about equally large."""
    number = -(-images // batch_size)
    ends = [-(-images * index // number) for index in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def default_batch_size(network: Network, shape: tuple[int, int, int], device: torch.device) -> int:
    """Images drawn at once by default: what stays in a processor's cache, or fits a GPU's free memory."""
    if not isinstance(network, DiT):
        return min(250, max(64, 2**19 // (shape[0] * shape[1] * shape[2])))
    tokens, config = network.grid[0] * network.grid[1], network.config
    if device.type != "cuda":
        return images_in_cache(tokens)
    # Of one block: its input and what is kept beside it, queries, keys and values, and the hidden layer; guided.
    bytes_each = 2 * 4 * tokens * config.width * (8 + 4 * config.mlp_ratio)
    return max(1, min(_MOST_AT_ONCE, int(free_bytes(device) / 2 / bytes_each)))


def images_in_cache(tokens: int) -> int:
    """How many images of so many tokens a processor draws fastest at once."""
    return min(_MOST_AT_ONCE, max(4, _CACHED_TOKENS // tokens))
