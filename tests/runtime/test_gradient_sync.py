"""Gradients of several processes: sent in one order, once, also when the last part is computed again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ditkit.runtime.gradient_sync import GradientSync


class Sent:
    """What all_reduce gives back, after it has tripled the tensor, as three equal processes would."""

    def __init__(self, flat):
        self.flat = flat

    def wait(self) -> None:
        self.flat *= 3


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    sizes: list[int] = []

    def all_reduce(flat, async_op):
        sizes.append(flat.numel())
        return Sent(flat)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return sizes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    net.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return net


def test_only_the_last_part_sends_and_what_comes_back_are_the_sums(sent) -> None:
    x_BD = torch.randn(6, 4)
    alone, shared = network(), network()
    alone(x_BD).sum().backward()
    exchange = GradientSync(shared.parameters(), bucket_bytes=128)
    for _ in range(2):  # two steps
        sent.clear()
        exchange.start(last=False)
        shared(x_BD[:2]).sum().backward()
        assert sent == []
        exchange.start(last=True)
        shared(x_BD[2:]).sum().backward()
        assert sent == [17, 64, 8, 32]  # while backward went on
        exchange.wait()
        assert sent == [17, 64, 8, 32, 3]  # from the last layer to the first
        for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
            if one.grad is None:
                assert other.grad is None
            else:
                torch.testing.assert_close(other.grad, 3 * one.grad)
        shared.zero_grad(set_to_none=True)


def test_a_part_that_is_computed_again_sends_nothing_twice(sent) -> None:
    x_BD = torch.randn(6, 4)
    alone, shared = network(), network()
    alone(x_BD).sum().backward()
    exchange = GradientSync(shared.parameters(), bucket_bytes=128)
    exchange.start(last=True)

    def run_out(_gradient) -> None:
        raise torch.OutOfMemoryError

    handle = shared[0].weight.register_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        shared(x_BD).sum().backward()
    handle.remove()
    early = list(sent)
    assert early == [17, 64, 8]
    shared.zero_grad(set_to_none=True)
    exchange.start(last=False)
    shared(x_BD[:3]).sum().backward()
    exchange.start(last=True)
    shared(x_BD[3:]).sum().backward()
    exchange.wait()
    assert sent == [*early, 32, 3]
    for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, 3 * one.grad)
