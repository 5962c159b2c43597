"""Randomness as a function: every draw comes from a generator seeded by (run seed, stream name, position)."""

from __future__ import annotations

from hashlib import blake2b

import torch


def stream_seed(seed: int, stream: str, position: int) -> int:
    """A 32-bit seed; positions of a stream never share one within four billion.

    CPU generators use only 32 bits of their seed, so hashed positions would collide early: the name is hashed, the
    position added.
    """
    digest = blake2b(f"{seed}/{stream}".encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + position) % 2**32


def generator(seed: int, stream: str, position: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one position of a stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, position))
