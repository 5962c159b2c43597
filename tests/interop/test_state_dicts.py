"""A network is found by its mark under any key and any prefix, and averaged weights come first."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.errors import CheckpointError, UsageError
from ditkit.interop.choice import average_left_out, choose
from ditkit.interop.state_dicts import find_networks, metadata
from ditkit.interop.unsupported import without_extras

MARK = "x_embedder.proj.weight"
EMA = {MARK: torch.ones(2, 2), "blocks.0.attn.qkv.weight": torch.ones(3)}
RAW = {name: 2 * value for name, value in EMA.items()}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def is_ema(tensors: Any) -> bool:
    return tensors.keys() == EMA.keys() and all(torch.equal(tensors[name], EMA[name]) for name in EMA)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net", "params", "weights", "module", "delta"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.module.", "base_model.model.", "any.thing."])
def test_a_state_dict_is_found_by_any_key_and_prefix(key: str, prefix: str) -> None:
    (network,) = find_networks({key: prefixed(prefix, EMA), "epoch": 3, "callbacks": {"a": {}}}, MARK)
    assert is_ema(network.tensors) and not network.is_averaged
    assert network.place == f"{key}.{prefix}".rstrip(".")


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.", "_orig_mod."])
def test_what_torch_wraps_around_layers_is_no_part_of_names(prefix: str) -> None:
    inner = {name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._orig_mod."): EMA[name] for name in EMA}
    (network,) = find_networks(prefixed(prefix, inner), MARK)
    assert is_ema(network.tensors)


@pytest.mark.parametrize(
    "tree",
    [
        {"model": RAW, "ema": EMA, "opt": {}},
        {"model": prefixed("module.", RAW), "ema_model": EMA},
        {"model_state": RAW, "model_ema": prefixed("module.", EMA)},
        {"state_dict": prefixed("model.", RAW) | prefixed("ema_model.", EMA)},
        {"state_dict": prefixed("ema.", EMA) | RAW},
        {"ema": prefixed("online_model.", RAW) | prefixed("ema_model.", EMA) | {"initted": torch.tensor(True)}},
        {"model": RAW, "swa": {"n_averaged": torch.tensor(3), **prefixed("module.", EMA)}},
        {"deep": {"er": {"ema": EMA}}, "model": RAW},
        {"model": {**RAW, "projectors.0.weight": torch.ones(2)}, "ema": EMA},
        {"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(EMA.values())}},
        {"state_dict": prefixed("model.", RAW) | {"model_ema." + name.replace(".", ""): EMA[name] for name in EMA}},
        [RAW, {"ema": EMA}],
    ],
)
def test_averaged_weights_come_first_and_the_raw_ones_with_them(tree: Any) -> None:
    choice = choose(find_networks(tree, MARK))
    assert is_ema(choice.ema.tensors) and choice.note == ""
    assert choice.raw is not None and torch.equal(choice.raw.tensors[MARK], RAW[MARK])


def test_other_tables_with_the_same_names_are_no_weights() -> None:
    tree = {"optimizer": {"exp_avg": RAW, "state": EMA}, "grads": RAW, "net": list(EMA.items())}
    (network,) = find_networks(tree, MARK)
    assert network.place == "net" and is_ema(network.tensors)


def test_tensors_without_numbers_are_parts_of_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match=r"without numbers \(x_embedder") as caught:
        choose(find_networks({"module": {MARK: torch.empty(0)}}, MARK)).check(Path("x.pt"))
    assert "zero_to_fp32.py" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused_by_their_type(dtype: torch.dtype) -> None:
    choice = choose(find_networks({MARK: torch.ones(2, 2).to(dtype)}, MARK))
    with pytest.raises(CheckpointError, match=str(dtype).removeprefix("torch.")):
        choice.check(Path("x.pt"))


@pytest.mark.parametrize(
    "ema",
    [
        {"shadow_params": [torch.ones(9, 9)]},
        {"shadow": {"something": torch.ones(9, 9)}},
        [torch.ones(9, 9)] * 100,
        {f"parameter {number}": torch.ones(9, 9) for number in range(3)},
    ],
)
def test_an_average_that_cannot_be_read_is_not_passed_over_in_silence(ema: Any) -> None:
    tree = {"model": RAW, "ema": ema, "ema_decay": 0.99}
    networks = find_networks(tree, MARK)
    assert "its averaged weights (ema" in average_left_out(tree, networks)
    tree["ema"] = EMA
    assert average_left_out(tree, find_networks(tree, MARK)) == ""
    assert average_left_out({"model": RAW, "ema_decay": torch.ones(1)}, networks) == ""


def test_of_several_averages_the_one_taken_is_named_and_another_can_be() -> None:
    networks = find_networks({"ema": EMA, "ema_0.999": RAW, "model": RAW}, MARK)
    choice = choose(networks)
    assert choice.note == "it has the weights ema, ema_0.999, model; taken: ema; others: --state-dict KEY"
    assert torch.equal(choose(networks, "ema_0.999").ema.tensors[MARK], RAW[MARK])
    with pytest.raises(UsageError, match="no weights at 'other'") as caught:
        choose(networks, "other")
    assert "ema_0.999" in str(caught.value.hint)


def test_metadata_is_all_else_as_plain_data() -> None:
    arguments = argparse.Namespace(model="DiT-S/4", num_classes=10, nested=argparse.Namespace(lr=1e-4))
    tree: dict[str, Any] = {"ema": EMA, "args": arguments, "step": torch.tensor(7), "losses": [1.0, 0.5]}
    tree["self"] = tree
    about = metadata(tree)
    assert about["args"] == {"model": "DiT-S/4", "num_classes": 10, "nested": {"lr": 1e-4}}
    assert (about["step"], about["losses"], about["ema"], about["self"]) == (7, [1.0, 0.5], {}, about)
    assert metadata(torch.ones(2)) == {}


# --- tensors that a network does not need, or ditkit does not have


BELONGS = r"blocks\.\d+\.attn\.qkv\.weight"


@pytest.mark.parametrize("name", ["projectors.0.0.weight", "vae.encoder.conv_in.weight", "betas", "loss_fn.x"])
def test_what_stands_beside_the_network_is_left_out_and_named(name: str) -> None:
    state = {"blocks.0.attn.qkv.weight": torch.ones(3), name: torch.ones(2)}
    tensors, notes = without_extras(state, BELONGS, Path("x.pt"))
    assert list(tensors) == ["blocks.0.attn.qkv.weight"]
    assert notes == (f"left out, because they are no part of the network: {name}",)
    assert without_extras(tensors, BELONGS, Path("x.pt")) == (tensors, ())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("feat_rope.freqs_cos", "rotary positions"),
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.3.attn.q_norm.weight", "queries and keys are normalised"),
        ("decoder_blocks.0.attn.qkv.weight", "MaskDiT"),
        ("blocks.0.norm1.weight", "normalisations have weights"),
        ("sideblocks.0.attn.qkv.weight", "MDT"),
        ("blocks.0.gamma1", "DiffFit"),
        ("blocks.0.attn.qkv.lora_A.default.weight", "LoRA"),
        ("blocks.0.attn.qkv.weight_scale", "quantised"),
        ("blocks.0.attn.something.weight", r"do not belong to that \(blocks.0.attn.something.weight\)"),
        ("another.weight", r"do not belong to that \(another.weight\)"),
    ],
)
def test_what_changes_the_network_is_refused_by_its_name(name: str, words: str) -> None:
    state = {"blocks.0.attn.qkv.weight": torch.ones(3), name: torch.ones(2)}
    with pytest.raises(CheckpointError, match=words):
        without_extras(state, BELONGS, Path("x.pt"))
