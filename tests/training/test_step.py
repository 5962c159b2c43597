"""Parts of a batch, activations computed twice, reduced precision: the gradients stay what they were."""

from __future__ import annotations

import pytest
import torch
from training_runs import digest, run

from ditkit import recipes
from ditkit.config import ModelConfig
from ditkit.errors import MachineError, UsageError
from ditkit.events import Finished, Warned
from ditkit.kernels.choice import Compute
from ditkit.models.dit import DiT
from ditkit.objectives.contract import open_objective
from ditkit.runtime.distributed import ProcessGroup
from ditkit.training import step
from ditkit.training.init_weights import fresh_network
from ditkit.training.step import SpeedOptions, micro_batches_for, open_step_context

CPU = torch.device("cpu")
PIXELS = {"patch": 2, "width": 288}


@pytest.mark.parametrize(
    ("settings", "images", "parts"),
    [
        ({}, 32, 1),  # the recipe is small: parts would only cost
        ({"model": PIXELS, "train": {"batch_size": 64}}, 64, 4),
        ({"model": PIXELS, "train": {"batch_size": 64, "accumulate": 8}}, 64, 8),
        ({"model": PIXELS, "train": {"batch_size": 64}}, 32, 2),  # the share of one of two processes
        ({"model": PIXELS, "train": {"batch_size": 64}}, 1, 1),
    ],
)
def test_a_cpu_splits_what_its_caches_do_not_hold(settings, images, parts):
    config = recipes.load("mnist", settings)
    assert micro_batches_for(config, CPU, images) == parts
    assert micro_batches_for(config, torch.device("cuda"), images) == config.train.accumulate


def test_a_sharded_network_is_not_compiled(monkeypatch):
    monkeypatch.setattr(ProcessGroup, "broadcast", lambda self, value: value)
    config = recipes.load("mnist")
    given = (
        config,
        fresh_network(config, 10, CPU),
        open_objective(config.diffusion),
        CPU,
        Compute(dtype=torch.float32),
        ProcessGroup(size=2),
    )
    with pytest.raises(UsageError, match="a sharded network cannot be compiled"):
        open_step_context(*given, SpeedOptions(compile="on", shard=True))
    worker, told = open_step_context(*given, SpeedOptions(shard=True), compiled_before=True)
    assert worker.compiled is None and told is None


def test_activations_computed_twice_change_no_bit(tiny, tmp_path):
    run(tiny(), tmp_path / "kept", speed=SpeedOptions(grad_checkpointing="off", kernels="off"))
    run(tiny(), tmp_path / "twice", speed=SpeedOptions(grad_checkpointing="on"))
    assert digest(tmp_path / "kept") == digest(tmp_path / "twice")


def test_activations_computed_twice_take_less_memory():
    network = DiT(ModelConfig(patch=4, width=64, depth=6, heads=4), channels=1, size=(32, 32), classes=2)
    kept = []
    for network.recompute in (False, True):
        seen: dict[int, int] = {}

        def keep(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = network(torch.randn(4, 1, 32, 32), torch.ones(4), torch.zeros(4, dtype=torch.int64))
        out.sum().backward()
        kept.append(sum(seen.values()))
    assert kept[1] < 0.3 * kept[0]


class Full:
    """A device whose memory holds one image, and only if activations are computed twice."""

    def __init__(self, monkeypatch):
        self.original = step._gradients_of_share
        monkeypatch.setattr(step, "_gradients_of_share", self)

    def __call__(self, worker, tensors, total):
        if worker.micro_batches < len(tensors[0]) or not worker.network.recompute:
            raise torch.OutOfMemoryError("out of memory")
        return self.original(worker, tensors, total)


def test_out_of_memory_with_one_image_computes_activations_twice_before_it_gives_up(tiny, tmp_path, monkeypatch):
    Full(monkeypatch)
    listener = run(tiny(train={"steps": 2}), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done"
    assert "16 parts, and activations computed twice" in listener.of(Warned)[-1].text
    with pytest.raises(MachineError, match="one image at a time"):
        run(tiny(), tmp_path / "off", speed=SpeedOptions(grad_checkpointing="off", kernels="off"))


@pytest.mark.parametrize("conditioning", ["in-context", "cross-attention", "adaln-zero"])
def test_under_autocast_products_are_reduced_and_conditions_modulations_and_the_stream_are_not(conditioning):
    config = ModelConfig(patch=4, width=32, depth=2, heads=4, conditioning=conditioning, norm="rms", qk_norm=True)
    network = DiT(config, channels=1, size=(8, 8), classes=2)
    seen: dict[str, torch.dtype] = {}

    def note(name):
        def hook(_module, _given, out):
            seen[name] = out.dtype

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(note(name))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 8, 8), torch.ones(2), torch.zeros(2, dtype=torch.int64)).float().sum().backward()
    assert {seen[name] for name in ("blocks.0.attention.qkv", "blocks.1.mlp.second")} == {torch.bfloat16}
    exact = [name for name in seen if name == "time" or name.endswith("modulation")] + ["blocks.0", "blocks.1"]
    assert {seen[name] for name in exact} == {torch.float32}
    assert all(one.grad is None or one.grad.dtype == torch.float32 for one in network.parameters())
