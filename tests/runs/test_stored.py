"""Settings that an earlier ditkit wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ditkit.config import DataConfig, RunConfig, to_dict
from ditkit.errors import UsageError
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import ModelInfo
from ditkit.runs.resume import prepare_run
from ditkit.runs.stored import stored_config


def test_a_run_that_does_not_say_how_images_are_read_has_the_first_reading(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.config_file.write_text('[data]\nname = "mnist"\n', encoding="utf-8")
    assert folder.read_config().data.reading == 1
    folder.config_file.write_text("", encoding="utf-8")
    assert folder.read_config().data.reading == 1
    assert RunConfig().data.reading == 2
    assert stored_config(to_dict(RunConfig())) == RunConfig()


def test_weights_that_do_not_say_it_have_the_first_reading_too():
    info = ModelInfo(config=RunConfig(), labels=(), step=1)
    assert ModelInfo.from_json(info.to_json(), Path("x")) == info
    earlier = ModelInfo.from_json(info.to_json().replace('"reading": 2, ', ""), Path("x"))
    assert earlier.config.data.reading == 1


def test_an_earlier_run_goes_on_with_its_reading_whatever_is_the_newest(tmp_path: Path):
    run = replace(RunConfig(), data=DataConfig(reading=1))
    RunFolder(tmp_path).write_config(run)
    assert prepare_run(RunConfig(), tmp_path).config == run
    with pytest.raises(UsageError, match="was started with seed"):
        prepare_run(replace(RunConfig(), seed=1), tmp_path)
