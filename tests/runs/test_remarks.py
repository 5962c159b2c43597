"""Settings that cannot work: refused before a run begins, or said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ditkit import recipes
from ditkit.cli.app import main
from ditkit.config import DiffusionConfig, RunConfig
from ditkit.errors import UsageError
from ditkit.objectives.contract import process_of
from ditkit.runs.folder import RunFolder
from ditkit.runs.remarks import check_new_run, remarks, usable_guidance, variance_left
from ditkit.runs.resume import prepare_run


def diffusion(**settings) -> DiffusionConfig:
    return DiffusionConfig(process="diffusion", objective="epsilon", **settings)


def config_with(**settings) -> RunConfig:
    return replace(RunConfig(), diffusion=diffusion(**settings))


@pytest.mark.parametrize("timesteps", [2, 10, 20, 50, 100, 250, 1000, 4000])
def test_betas_that_are_not_given_leave_nothing_of_the_image_at_the_last_timestep(timesteps: int):
    config = diffusion(timesteps=timesteps)
    assert variance_left(config) < 0.006
    betas = process_of(config).betas()
    assert len(betas) == timesteps and betas.min() > 0 and betas.max() < 1
    assert variance_left(config) == pytest.approx(float(np.prod(1 - betas)), rel=1e-9)


def test_a_thousand_timesteps_have_the_betas_of_the_paper_to_the_last_bit():
    assert diffusion().betas == (1e-4, 2e-2)
    assert diffusion(timesteps=50).betas == pytest.approx((2e-3, 0.4))


@pytest.mark.parametrize(("timesteps", "kept"), [(50, "60 %"), (100, "36 %"), (200, "13 %")])
def test_given_betas_that_keep_the_image_are_refused_with_the_number(tmp_path: Path, timesteps: int, kept: str):
    config = config_with(timesteps=timesteps, beta_start=1e-4, beta_end=2e-2)
    with pytest.raises(UsageError, match=f"the last of {timesteps} timesteps keeps {kept} of an image's variance"):
        prepare_run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    RunFolder(tmp_path).write_config(config)  # one that has begun goes on as it was …
    assert prepare_run(config_with(timesteps=timesteps), tmp_path).config.diffusion == config.diffusion  # … by itself


def test_dropping_every_label_is_refused():
    with pytest.raises(UsageError, match="label_drop is 1: no label would be learnt"):
        check_new_run(config_with(label_drop=1.0))


def test_settings_of_apg_without_it_are_refused():
    with pytest.raises(UsageError, match="are for APG"):
        check_new_run(replace(RunConfig(), sample=replace(RunConfig().sample, apg_norm=3.0)))


def test_a_new_run_is_refused_on_the_command_line_too(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "train mnist --dry-run --set diffusion.process=diffusion --set diffusion.objective=epsilon --set "
    line += (
        "sample.sampler=ddim --set diffusion.timesteps=50 --set diffusion.beta_start=1e-4 --set diffusion.beta_end=0.02"
    )
    assert main(line.split()) == 2
    assert "keeps 60 % of an image's variance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "labels", "said"),
    [
        ({"optim": {"warmup_steps": 300}, "train": {"steps": 30}}, 2, "reaches 2.0e-04, not 2.0e-03"),
        ({"diffusion": {"label_drop": 0.0}}, 2, "guidance is off in samples"),
        ({"diffusion": {"label_drop": 0.0}}, 0, None),
        ({"diffusion": {"label_drop": 0.0}, "sample": {"guidance": 1.0}}, 2, None),
        ({"model": {"patch": 64}}, 2, "one patch covers the whole image"),
        ({"train": {"snapshot_every": 50_000}}, 2, "no snapshot is taken"),
        ({"diffusion": {"beta_end": 0.01}}, 2, "a flow has no betas"),
        ({"sample": {"reuse": 60}}, 2, "drawn by one pass through the blocks"),
        ({"data": {"balance": True}}, 0, "there are no labels to balance"),
        ({}, 2, None),
    ],
)
def test_what_is_hardly_wanted_is_said(settings, labels: int, said: str | None):
    found = list(remarks(recipes.load("celeba", settings), labels))
    assert said in found[0] if said else not found, found


def test_guidance_is_off_where_no_label_was_left_out_and_strong_guidance_has_a_remedy():
    config = RunConfig()
    assert usable_guidance(config, 3, guide=False) == (config.sample, "")
    undropped = replace(config, diffusion=DiffusionConfig(label_drop=0))
    settings, text = usable_guidance(undropped, 3, guide=False)
    assert settings.guidance == 1 and text.startswith("guidance is off")
    assert (
        usable_guidance(undropped, 3, guide=True) == usable_guidance(undropped, 0, guide=False) == (config.sample, "")
    )
    strong = replace(config, sample=replace(config.sample, guidance=20.0))
    assert (
        "guidance 20 saturates colours: less of it, --guidance-rescale 0.7 or --apg"
        in usable_guidance(strong, 3, guide=False)[1]
    )
    assert usable_guidance(replace(strong, sample=replace(strong.sample, apg=True)), 3, guide=False)[1] == ""


def test_sample_says_it_and_sweep_refuses(tmp_path: Path, capsys, monkeypatch):
    from ditkit.training.loop import train

    monkeypatch.chdir(tmp_path)
    changes = {"train": {"steps": 1, "batch_size": 2}, "model": {"preset": "dit-pico/7", "depth": 1}}
    config = recipes.load("mnist", {**changes, "diffusion": {"label_drop": 0.0}, "data": {"validation": 0}})
    train(config, tmp_path / "runs/m", device="cpu")
    line = "sample --model m --labels 3 --steps 2 --guidance 3 --device cpu --out"
    assert main([*line.split(), "a"]) == 0
    assert "guidance is off: the model has not learnt what no label is" in capsys.readouterr().err
    assert main([*line.replace("--guidance 3", "--guidance 1").split(), "b"]) == 0
    assert "guidance is off" not in capsys.readouterr().err
    assert (tmp_path / "a/000-3.png").read_bytes() == (tmp_path / "b/000-3.png").read_bytes()
    assert main(["sweep", "m", "--guidance", "1,2", "--device", "cpu"]) == 2
    assert "--guidance: guidance is off" in capsys.readouterr().err
    assert main([*line.split(), "c", "--apg", "--guidance-rescale", "0.7", "--backend", "jax"]) == 2
    assert "the JAX backend knows no guidance rescale" in capsys.readouterr().err
