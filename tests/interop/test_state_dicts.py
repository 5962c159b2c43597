"""A network is found by its mark under any key and any prefix, and averaged weights come first."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.errors import UsageError
from ditkit.interop.state_dicts import choose, find_networks, metadata

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
    ],
)
def test_averaged_weights_come_first_and_the_raw_ones_with_them(tree: dict[str, Any]) -> None:
    choice = choose(find_networks(tree, MARK))
    assert is_ema(choice.ema.tensors) and choice.note == ""
    assert choice.raw is not None and torch.equal(choice.raw.tensors[MARK], RAW[MARK])


def test_of_several_averages_the_one_taken_is_named_and_another_can_be() -> None:
    networks = find_networks({"ema": EMA, "ema_0.999": RAW, "model": RAW}, MARK)
    choice = choose(networks)
    assert choice.note == "it has ema, ema_0.999, model; taken: ema"
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
