"""Whether the kernels are used: what their check finds is kept, and nothing wrong passes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ditkit import recipes
from ditkit.errors import MachineError, UsageError
from ditkit.kernels import choice, compiler, library
from ditkit.kernels.blocks import FastBlocks
from ditkit.kernels.choice import Compute, choose
from ditkit.models.dit import DiT

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def ready(request, monkeypatch):
    """The library is there, unless a test looks for one itself."""
    monkeypatch.setenv("DITKIT_KERNELS", "auto")
    if "fresh" not in request.fixturenames:
        opened = library._load(request.getfixturevalue("built"))
        opened.use_openmp(*library._openmp())
        monkeypatch.setattr(library, "_library", lambda: opened)


def config(**model: object):
    settings = {"model.width": 32, "model.depth": 2, "model.heads": 2, "model.patch": 7}
    settings |= {f"model.{name}": value for name, value in model.items()}
    return recipes.load("mnist", recipes.merge_settings([f"{name}={value}" for name, value in settings.items()]))


def verdicts(cache: Path) -> list[Path]:
    return sorted((cache / "kernels").glob("check-*.json"))


def no_check(*_: object) -> None:
    raise AssertionError("checked again")


def test_networks_are_equipped_with_what_was_chosen():
    compute = choose(config(), CPU, "float32", "on")
    assert compute.kernels and compute.dtype == torch.float32 and "times as fast" in compute.why
    network = DiT(config().model, channels=1, size=(28, 28), classes=1)
    compute.equip(network)
    assert isinstance(network.fast_blocks, FastBlocks)
    Compute(dtype=torch.float32).equip(network)
    assert network.fast_blocks is None


def test_autocast_is_left_to_the_kernels_where_they_run():
    assert Compute(dtype=torch.bfloat16, kernels=True).autocast == torch.float32
    assert Compute(dtype=torch.bfloat16).autocast == torch.bfloat16


def test_kernels_that_are_off_are_not_even_looked_for(fresh, monkeypatch):
    monkeypatch.setattr(compiler, "compilers", no_check)
    assert not choose(config(), CPU, "auto", "off").kernels


@pytest.mark.parametrize(
    ("device", "model", "says"),
    (("cpu", {"conditioning": "cross-attention"}, "no cross-attention"), ("meta", {}, "they run on CPUs, not on meta")),
)
def test_networks_and_devices_without_kernels_run_eager_and_asking_for_them_is_a_mistake(device, model, says):
    compute = choose(config(**model), torch.device(device), "float32", "auto")
    assert not compute.kernels and says in compute.why
    with pytest.raises(UsageError, match=f"--kernels on: .*{says}"):
        choose(config(**model), torch.device(device), "float32", "on")


def test_without_a_library_eager_torch_computes_and_asking_for_kernels_is_one_clear_line(compilers):
    compute = choose(config(), CPU, "float32", "auto")
    assert not compute.kernels and compute.why == "there is no C compiler (cc, gcc or clang)"
    with pytest.raises(MachineError, match="the kernels cannot be used: there is no C compiler") as caught:
        choose(config(), CPU, "float32", "on")
    assert caught.value.hint and "\n" not in caught.value.message


def test_kernels_that_are_no_faster_are_used_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(choice, "_GAIN", 1e9)
    compute = choose(config(), CPU, "float32", "auto")
    assert not compute.kernels and "times as fast as eager" in compute.why
    assert choose(config(), CPU, "float32", "on").kernels


def test_bfloat16_is_never_tried_on_a_processor_without_it(monkeypatch):
    monkeypatch.setattr(choice, "computes_bfloat16", lambda: False)
    monkeypatch.setattr(choice, "check", no_check)
    assert not choose(config(), CPU, "bfloat16", "auto").kernels
    with pytest.raises(MachineError, match="this processor does not multiply in bfloat16"):
        choose(config(), CPU, "bfloat16", "on")


@pytest.mark.parametrize("conditioning", ("adaln-zero", "adaln", "in-context"))
@pytest.mark.parametrize("dtype", choice._TOLERANCE)
def test_right_kernels_pass_their_check(conditioning, dtype, monkeypatch):
    monkeypatch.setattr(choice, "_fastest", lambda work, rounds: 1.0)
    for mlp in ("swiglu", "gelu-tanh"):
        assert choice.check(config(conditioning=conditioning, mlp=mlp), dtype).error is not None


def test_equal_commands_make_equal_choices(cache, monkeypatch):
    first = choose(config(), CPU, "float32", "auto")
    monkeypatch.setattr(choice, "check", no_check)
    assert choose(config(), CPU, "float32", "auto") == first
    assert choose(config(depth=5), CPU, "float32", "auto") == first  # blocks are alike
    assert len(verdicts(cache)) == 1


@pytest.mark.parametrize("what", ("shape", "threads", "library", "torch"))
def test_what_was_found_for_something_else_does_not_count(what, cache, monkeypatch):
    choose(config(), CPU, "float32", "on")
    changed = config(width=64) if what == "shape" else config()
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    elif what == "library":
        monkeypatch.setattr(choice, "library_name", lambda: "another")
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "99")
    choose(changed, CPU, "float32", "on")
    assert len(verdicts(cache)) == 2


DAMAGED = (
    "",
    "{",
    "[]",
    "null",
    '"text"',
    '{"error": 1e-9}',
    '{"error": "x", "gain": 1, "why": ""}',
    "\0" * 99,
    "[" * 9999,
)


@pytest.mark.parametrize("content", (*DAMAGED, '{"error": 1e-9, "gain": [], "why": ""}'))
def test_a_damaged_verdict_is_found_again(content, cache, monkeypatch):
    monkeypatch.setattr(choice, "_fastest", lambda work, rounds: 1.0)
    choose(config(), CPU, "float32", "on")
    (path,) = verdicts(cache)
    whole = path.read_text(encoding="utf-8")
    path.write_text(content, encoding="utf-8")
    assert choose(config(), CPU, "float32", "on").kernels
    assert path.read_text(encoding="utf-8") == whole


def test_a_folder_in_the_place_of_a_verdict_does_no_harm(cache):
    choose(config(), CPU, "float32", "on")
    (path,) = verdicts(cache)
    path.unlink()
    path.mkdir()
    assert choose(config(), CPU, "float32", "on").kernels


def test_without_a_cache_the_check_is_made_each_time(monkeypatch):
    monkeypatch.setenv("DITKIT_CACHE", "/proc/nowhere")
    assert choose(config(), CPU, "float32", "on").kernels


def test_a_wrong_verdict_is_kept_too(cache, monkeypatch):
    monkeypatch.setattr(choice, "_TOLERANCE", dict.fromkeys(choice._TOLERANCE, 0.0))
    refused = choose(config(), CPU, "float32", "auto")
    assert not refused.kernels and "their gradients differ from torch's by" in refused.why
    assert json.loads(verdicts(cache)[0].read_text(encoding="utf-8"))["error"] is None
    monkeypatch.setattr(choice, "check", no_check)
    assert choose(config(), CPU, "float32", "auto") == refused


# What a compiler could make of the sources that is not what they say: file, text, and what stands there instead.
MUTANTS = {
    "a factor of the norm's gradient": ("norm.h", "- n * along);", "- n * along * 0.99f);"),
    "no bias": ("feed_forward.h", "value = LOAD(u[j + H]) + bias[j + H], grad", "value = LOAD(u[j + H]), grad"),
    "a bias' gradient left out": ("feed_forward.h", "d_bias[j + H] += d_value;", ""),
    "turned the other way in backward": ("attention.h", "(K / 2), -1);", "(K / 2), 1);"),
    "the last token left out": (
        "attention.h",
        "softmax_backward(s, ds, T, queries);",
        "softmax_backward(s, ds, T - 1, queries);",
    ),
    "the last image left out": ("parallel.h", "return count * part / parts;", "return (count - 1) * part / parts;"),
    "sums that never end": ("attention.h", "sum[i] = 1.0f / sum[i];", "sum[i] = 0.0f / 0.0f;"),
}


def mutant(name: str, folder: Path) -> Path:
    source = shutil.copytree(compiler.SOURCE, folder / "source")
    file, text, instead = MUTANTS[name]
    path = source / file
    content = path.read_text(encoding="utf-8")
    assert content.count(text) >= 1, "the source has changed: change this test, too"
    path.write_text(content.replace(text, instead), encoding="utf-8")
    return source


@pytest.mark.parametrize(
    "name",
    [name if not number else pytest.param(name, marks=pytest.mark.faults) for number, name in enumerate(MUTANTS)],
)
def test_kernels_that_compute_something_else_are_refused_in_one_line(name, fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "SOURCE", mutant(name, tmp_path))
    monkeypatch.setattr(compiler, "_FLAGS", ("-O1", *compiler._FLAGS[1:]))
    compute = choose(config(), CPU, "float32", "auto")
    assert not compute.kernels and compute.why.startswith("their gradients differ from torch's by ")
    with pytest.raises(MachineError, match="their gradients differ from torch's by") as caught:
        choose(config(), CPU, "float32", "on")
    assert "\n" not in caught.value.message
