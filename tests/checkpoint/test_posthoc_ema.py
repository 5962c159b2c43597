"""Post-hoc EMA: the profiles in closed form, and averages made after training against ones that were tracked."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ditkit
from ditkit.checkpoint.posthoc_ema import average
from ditkit.cli.app import main
from ditkit.cli.parsing import LONGEST_EMA, SHORTEST_EMA
from ditkit.ema import TRACKED, PowerEmas, combination, decay_of_power, power_of, product
from ditkit.errors import CheckpointError, UsageError
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import read_model_info
from ditkit.training.loop import train


def length_of(power: float) -> float:
    """The length of an exponent (eq. 4), which `power_of` inverts."""
    return math.sqrt((power + 1) / (power + 2) ** 2 / (power + 3))


def profile(step: int, length: float, grid: np.ndarray) -> np.ndarray:
    """Of an average after `step` steps, at each place of a grid (section 3.1)."""
    power = power_of(length)
    return np.where(grid <= step, (power + 1) / step * (grid / step) ** power, 0.0)


@pytest.mark.parametrize("length", [SHORTEST_EMA, 0.05, 0.1, LONGEST_EMA])
def test_a_length_is_the_relative_standard_deviation_of_its_profile(length):
    assert length_of(power_of(length)) == pytest.approx(length)
    grid = (np.arange(400_000) + 0.5) / 400_000
    weight = profile(1, length, grid)
    mean = (weight * grid).mean()
    assert np.sqrt((weight * (grid - mean) ** 2).mean()) == pytest.approx(length, rel=1e-3)


def test_the_decays_give_the_profile():
    weight_T = np.zeros(50)
    for step in range(1, 51):
        decay = decay_of_power(step, 0.1)
        weight_T *= decay
        weight_T[step - 1] += 1 - decay
    ends = (np.arange(51) / 50) ** (power_of(0.1) + 1)  # each step has the integral of the profile over it
    assert weight_T == pytest.approx(np.diff(ends), abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other"), [((100, 0.05), (100, 0.1)), ((40, 0.1), (100, 0.02)), ((90, 0.2), (70, 0.05))]
)
def test_products_of_profiles_are_their_integrals(one, other):
    grid = (np.arange(1_000_000) + 0.5) / 10_000
    expected = (profile(*one, grid) * profile(*other, grid)).sum() / 10_000
    assert product(one, other) == pytest.approx(expected, rel=1e-4)


def test_a_combination_is_the_profile_that_was_asked_for():
    profiles = [(step, length) for step in range(50, 1001, 50) for length in TRACKED]
    grid = np.arange(1000) + 0.5
    for length, error in ((0.02, 0.1), (0.05, 0.01), (0.07, 0.01), (0.15, 0.01), (0.2, 0.02)):
        factors, far = combination(profiles, (1000, length))
        made = sum(factor * profile(*one, grid) for factor, one in zip(factors, profiles, strict=True))
        wanted = profile(1000, length, grid)
        assert np.linalg.norm(made - wanted) < error * np.linalg.norm(wanted) and far < error
    assert combination(profiles[-2:], (1000, 0.01))[1] > 0.2  # two profiles do not give a much shorter one


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with snapshots, and averages of other lengths that were tracked beside it."""
    tiny, patch = tmp_path_factory.mktemp("ema"), pytest.MonkeyPatch()
    followed: dict[str, PowerEmas] = {}
    update = PowerEmas.update

    def also(self: PowerEmas, network, step):
        update(self, network, step)
        if step == 1:
            followed["others"] = PowerEmas(network, (0.03, 0.07, 0.15))
        update(followed["others"], network, step)

    patch.setattr(PowerEmas, "update", also)
    train(config(), tiny / "runs" / "run", device="cpu")
    patch.undo()
    return tiny / "runs" / "run", followed["others"]


def config(**settings):
    from ditkit import recipes

    model = {"width": 32, "depth": 1, "heads": 2, "patch": 7}
    train_settings = {"steps": 120, "batch_size": 8, "save_every": 60, "sample_every": 1000, "snapshot_every": 6}
    return recipes.build(
        recipes.tree("mnist"),
        {
            "model": model,
            "train": {**train_settings, "validate_every": 1000, "sample_columns": 1, **settings},
            "data": {"validation": 4},
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup_steps": 0},
            "sample": {"steps": 2},
        },
    )


def distance(made: dict, tracked: dict) -> float:
    """Of weights, as a part of their norm."""
    difference = sum(float((made[name] - tracked[name]).square().sum()) for name in tracked)
    return (difference / sum(float(value.square().sum()) for value in tracked.values())) ** 0.5


def test_an_average_made_afterwards_is_the_one_that_was_tracked(kept):
    run, others = kept
    newest = RunFolder(run).checkpoint(120)
    for length, network in others.networks.items():
        tracked = {name: value.detach() for name, value in network.state_dict().items()}
        made = load_file(average(newest / "ema.safetensors", length))
        own = load_file(newest / "averages.safetensors")
        nearest = min(distance({name: own[f"{one:g}|{name}"] for name in tracked}, tracked) for one in TRACKED)
        assert distance(made, tracked) < 2e-3 and distance(made, tracked) < 0.1 * nearest
        assert all(value.dtype == torch.float32 for value in made.values())


def test_a_tracked_length_comes_back_to_rounding(kept):
    run, _ = kept
    newest = RunFolder(run).checkpoint(120)
    own = load_file(newest / "averages.safetensors")
    made = load_file(average(newest / "ema.safetensors", 0.05))
    assert distance(made, {name: own[f"0.05|{name}"] for name in made}) < 1e-3


def test_an_earlier_checkpoint_has_its_own_average(kept):
    run, _ = kept
    early, late = (average(RunFolder(run).checkpoint(step) / "ema.safetensors", 0.07) for step in (60, 120))
    assert (
        read_model_info(early).step == 60
        and read_model_info(late).step == 120
        and read_model_info(late).weights == "ema 0.07"
    )
    assert any(not torch.equal(value, load_file(late)[name]) for name, value in load_file(early).items())


def test_a_run_that_was_stopped_keeps_the_same_snapshots(kept, tmp_path):
    whole, _ = kept
    parts = tmp_path / "parts"
    train(config(steps=50), parts, device="cpu")
    train(config(), parts, device="cpu")

    def sums(run):
        files = [*sorted((run / "snapshots").iterdir()), run / "checkpoints/step-0000120/averages.safetensors"]
        return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]

    assert sums(whole) == sums(parts) and len(sums(whole)) == 21


def test_snapshots_change_nothing_of_a_run(kept, tmp_path):
    plain = train(config(snapshot_every=None), tmp_path / "plain", device="cpu")
    for name in ("ema", "model", "optimizer"):
        ours, theirs = (load_file(run / f"checkpoints/step-0000120/{name}.safetensors") for run in (kept[0], plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not (plain / "snapshots").exists()


def test_damaged_missing_and_too_few_snapshots_are_reported(kept, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(kept[0], run, ignore=shutil.ignore_patterns("averages"))
    weights = RunFolder(run).checkpoint(120) / "ema.safetensors"
    snapshot = run / "snapshots/step-0000102.safetensors"
    content = bytearray(snapshot.read_bytes())
    content[-100] ^= 1
    snapshot.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-0000102.*damaged"):
        average(weights, 0.07)
    snapshot.write_bytes(content[:5])
    with pytest.raises(CheckpointError, match="step-0000102") as caught:
        average(weights, 0.07)
    assert caught.value.hint == "delete it, or leave out --ema"
    for one in (run / "snapshots").iterdir():
        one.unlink()
    with pytest.raises(UsageError, match=r"too few for a length of 0.01"):
        average(weights, 0.01)


def test_the_command_draws_sweeps_and_says_which_average(kept, tmp_path, capsys):
    run = str(kept[0])
    assert main(["sample", "--model", run, "--labels", "3", "--ema", "0.07", "--out", "a", "--device", "cpu"]) == 0
    with Image.open("a/000-3.png") as picture:
        assert picture.text["ema"] == "0.07" and "ema-0.07" in picture.text["checkpoint"]
        averaged = np.asarray(picture)
    assert main(["sample", "--model", run, "--labels", "3", "--out", "b", "--device", "cpu"]) == 0
    with Image.open("b/000-3.png") as picture:
        assert "ema" not in picture.text and (np.asarray(picture) != averaged).any()
    capsys.readouterr()
    line = ["sweep", run, "--labels", "3", "--ema", "0.03,0.1", "--out", "c", "--device", "cpu"]
    assert main(line) == 0
    assert "| ema |" in capsys.readouterr().out
    assert [row["ema"] for row in json.loads((tmp_path / "c/sweep.json").read_text("utf-8"))["ways"]] == [0.03, 0.1]
    assert ditkit.load(kept[0] / "averages/step-0000120/ema-0.03.safetensors").info.weights == "ema 0.03"


@pytest.mark.parametrize("word", ["0", "-1", "0.3", "nan", "inf", "a", "1e9"])
def test_a_length_that_is_none_is_reported_in_one_line(kept, capsys, word):
    assert main(["sample", "--model", str(kept[0]), "--ema", word]) == 2
    assert "is not a length between" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [(["--model", "mnist"], "not a checkpoint of a run"), (["--no-ema"], "different weights")]
)
def test_what_has_no_snapshots_is_reported(kept, capsys, words, said):
    words = words if "--model" in words else [*words, "--model", str(kept[0])]
    assert main(["sample", *words, "--ema", "0.05"]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_snapshots_says_how_to_have_them(tmp_path, capsys):
    train(config(snapshot_every=None, steps=2), tmp_path / "runs/plain", device="cpu")
    assert main(["sample", "--model", "plain", "--ema", "0.05"]) == 2
    assert "--snapshot-every" in capsys.readouterr().err
