"""Runs and weights of another ditkit are read, or refused by name and version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ditkit import __version__, recipes
from ditkit.config import RunConfig, to_dict
from ditkit.errors import CheckpointError, UsageError
from ditkit.runs import stored
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import ModelInfo


def write(folder: Path, first_line: str, extra: str = "") -> RunFolder:
    run = RunFolder(folder)
    text = recipes.dump(recipes.load("mnist"))
    run.config_file.write_text(f"{first_line}\n{extra}\n{text}", encoding="utf-8")
    return run


def test_a_run_says_which_ditkit_wrote_its_settings(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_config(recipes.load("mnist"))
    assert run.config_file.read_text(encoding="utf-8").startswith(f"# ditkit {__version__}\n")
    assert run.read_config() == recipes.load("mnist")


@pytest.mark.parametrize("first_line", ["# ditkit 9.1", f"# ditkit {__version__}", "# mine"])
def test_settings_that_are_known_are_read_whoever_wrote_them(tmp_path: Path, first_line: str) -> None:
    assert write(tmp_path, first_line).read_config().data.name == "mnist"


def test_unknown_settings_of_another_ditkit_are_refused_by_version(tmp_path: Path) -> None:
    run = write(tmp_path, "# ditkit 9.1", 'dream = "yes"')
    with pytest.raises(CheckpointError) as caught:
        run.read_config()
    assert caught.value.message == (
        f"{run.config_file}: ditkit 9.1 wrote settings that this one ({__version__}) does not know: dream"
    )
    assert caught.value.hint == "upgrade with `pip install -U ditkit`"


@pytest.mark.parametrize("first_line", [f"# ditkit {__version__}", "# mine"])
def test_a_misspelt_setting_is_one_to_mend(tmp_path: Path, first_line: str) -> None:
    with pytest.raises(UsageError, match="unknown setting 'sead'"):
        write(tmp_path, first_line, "sead = 1").read_config()


def test_weights_with_unknown_settings_are_of_a_newer_ditkit() -> None:
    tree = json.loads(ModelInfo(config=RunConfig(), labels=("a",), step=1).to_json())
    tree["config"] = to_dict(RunConfig())
    tree["config"]["model"]["dream"] = 1
    with pytest.raises(CheckpointError, match=r"w: a newer ditkit wrote settings that .* not know: model\.dream"):
        ModelInfo.from_json(json.dumps(tree), Path("w"))
    tree["format"] = 99
    with pytest.raises(CheckpointError, match="w: format 99 is newer than this ditkit understands"):
        ModelInfo.from_json(json.dumps(tree), Path("w"))


@pytest.mark.parametrize("step", [-5, 10**30, float("nan"), "many"])
def test_a_step_that_no_checkpoint_could_have_is_damage(step):
    tree = json.loads(ModelInfo(config=RunConfig(), labels=("a",), step=1).to_json())
    with pytest.raises(CheckpointError, match="its ditkit card is damaged"):
        ModelInfo.from_json(json.dumps({**tree, "step": step}), Path("w"))


@pytest.mark.parametrize("config", [5, 0.5, "text", None, [1]])
def test_settings_that_are_no_table_are_damage(config):
    tree = json.loads(ModelInfo(config=RunConfig(), labels=("a",), step=1).to_json())
    with pytest.raises(CheckpointError, match="its ditkit card is damaged"):
        ModelInfo.from_json(json.dumps({**tree, "config": config}), Path("w"))


def test_settings_are_read_once(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    config = recipes.load("mnist")
    path.write_text(stored.config_text(config), encoding="utf-8")
    opened, read = [], stored.read_regular
    for module in (stored, recipes):
        monkeypatch.setattr(module, "read_regular", lambda path: opened.append(path) or read(path))
    assert stored.read_config(path) == config and opened == [path]
