"""Settings: checked on construction, written and read back unchanged, wrong ones named."""

from __future__ import annotations

import dataclasses

import pytest

from ditkit import recipes
from ditkit.config import DataConfig, RunConfig, from_dict, to_dict
from ditkit.errors import DitkitError, UsageError
from ditkit.models import presets
from ditkit.runs.stored import differences


@pytest.mark.parametrize("name", recipes.descriptions())
def test_every_recipe_loads_and_survives_being_written(name, tmp_path):
    config = recipes.load(name)
    assert from_dict(to_dict(config)) == config
    file = tmp_path / "config.toml"
    file.write_text(recipes.dump(config), encoding="utf-8")
    assert recipes.build(recipes.parse(file)) == config


@pytest.mark.parametrize("name", recipes.descriptions())
def test_every_recipe_says_what_it_is(name):
    assert len(recipes.descriptions()[name]) > 20


@pytest.mark.parametrize(
    ("given", "size"), [(64, (64, 64)), ("64", (64, 64)), ("96x64", (96, 64)), ([32, 48], (32, 48)), ((8, 8), (8, 8))]
)
def test_image_sizes_are_understood_in_every_spelling(given, size):
    assert DataConfig(image_size=given).image_size == size


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optim.lr=0", ["optim.lr", "greater than 0"]),
        ("optim.lr=nan", ["optim.lr", "finite"]),
        ("optim.lr=fast", ["optim.lr", "number"]),
        ("train.steps=0", ["train.steps", "greater than or equal to 1"]),
        ("train.steps=1e12", ["train.steps"]),
        ("train.steps=1.5", ["train.steps", "integer"]),
        ("model.width=63", ["not a multiple of model.heads"]),
        ("model.conditioning=film", ["model.conditioning", "'adaln-zero'"]),
        ("model.depht=3", ["model.depht", "model.depth"]),
        ("modle.depth=3", ["modle"]),
        ("model=3", ["model"]),
        ("diffusion.objective=nois", ["unknown objective", "known"]),
        ("sample.sampler=flow-huen", ["unknown sampler", "flow-heun"]),
        ("data.image_size=30", ["30x30", "patch size"]),
        ("data.image_size=axb", ["data.image_size"]),
        ("train.accumulate=3", ["train.batch_size", "multiple of train.accumulate"]),
        ("model.preset=dit-m/2", ["unknown model preset", "dit-"]),
        ("seed=-1", ["seed"]),
        ("optim.lr", ["section.key=value"]),
        ("sample.guidance_from=0.9", ["guidance_from"]),
        ("diffusion.beta_start=0.5", ["beta_end is below"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(setting, words):
    overrides = [setting, "sample.guidance_to=0.5"] if "guidance_from" in setting else [setting]
    with pytest.raises(UsageError) as caught:
        recipes.load("mnist", recipes.merge_settings(overrides))
    text = f"{caught.value.message} {caught.value.hint}"
    assert caught.value.exit_code == 2
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_settings_are_merged_key_by_key_and_the_last_one_wins():
    tree = recipes.merge_settings(["optim.lr=3e-4", "optim.schedule=cosine", "data.flip=true", "optim.lr=1e-3"])
    assert tree == {"optim": {"lr": 1e-3, "schedule": "cosine"}, "data": {"flip": True}}


def test_a_preset_stands_for_its_sizes_under_the_keys_beside_it():
    config = recipes.load("mnist", {"model": {"preset": "dit-s/4", "depth": 3}})
    assert (config.model.width, config.model.depth, config.model.heads, config.model.patch) == (384, 3, 6, 4)


def test_every_preset_is_a_model():
    for name in presets.names():
        assert presets.settings(name)["width"] % presets.settings(name)["heads"] == 0


def test_differences_name_the_settings():
    one = RunConfig()
    other = dataclasses.replace(one, optim=dataclasses.replace(one.optim, lr=0.5), seed=3)
    assert differences(one, other) == {"optim.lr": (1e-4, 0.5), "seed": (0, 3)}


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3  # type: ignore[misc]


def test_broken_toml_is_one_line(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[data\nname = 3")
    with pytest.raises(DitkitError, match="is not valid TOML"):
        recipes.parse(file)
    with pytest.raises(DitkitError, match="cannot read"):
        recipes.parse(tmp_path / "none.toml")
