"""The model inside the package draws the digits that it is asked for, with nothing trained and no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditkit.cli.app import main
from ditkit.config import to_dict
from ditkit.data.contract import open_dataset
from ditkit.errors import UsageError
from ditkit.recipes import load
from ditkit.runs import lookup
from ditkit.runs.folder import RunFolder
from ditkit.runs.lookup import find_weights
from ditkit.runs.model_info import read_model_info
from ditkit.runs.stored import continued


def nearest_label(images_NF: np.ndarray) -> list[str]:
    """The label of the most similar of 10,000 training images, a classifier that is right 19 times out of 20."""
    digits = open_dataset(load("mnist").data, "train")
    known = [digits[index] for index in range(10_000)]
    known_MF = np.stack([image.reshape(-1) for image, _ in known]).astype(np.float32) / 255
    distance_NM = (known_MF**2).sum(axis=1) - 2 * images_NF @ known_MF.T
    return [digits.labels[known[index][1]] for index in distance_NM.argmin(axis=1)]


def test_it_draws_the_digits_that_it_is_asked_for(tmp_path, capsys):
    words = [f"{digit}*5" for digit in range(10)]
    assert main(["sample", "--model", "mnist", "--labels", *words, "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)["images"]
    images = np.stack([np.asarray(Image.open(tmp_path / one["path"]), dtype=np.float32).reshape(-1) for one in drawn])
    seen = nearest_label(images / 255)
    right = [one["label"] == label for one, label in zip(drawn, seen, strict=True)]
    assert len(drawn) == 50 and sum(right) >= 45, list(zip([one["label"] for one in drawn], seen, strict=True))


def test_it_is_small_and_knows_nothing_of_the_machine_that_made_it():
    (name,) = lookup.bundled_names()
    path = lookup.bundled_weights(name)
    assert name == "mnist" and path is not None and path.stat().st_size < 5_000_000
    info = read_model_info(path)
    assert info.labels == tuple("0123456789") and info.weights == "ema"
    ours = {key: value for key, value in to_dict(continued(load("mnist"), info.config)).items() if key != "train"}
    assert {key: to_dict(info.config)[key] for key in ours} == ours, "it is not of the recipe as it is now"
    assert info.step == load("mnist").train.steps


def test_a_run_of_the_same_name_comes_first(tmp_path):
    assert find_weights("mnist", tmp_path) == lookup.bundled_weights("mnist")
    folder = RunFolder(tmp_path / "mnist")
    folder.path.mkdir()
    folder.write_config(load("mnist"))
    with pytest.raises(Exception, match="has no checkpoint yet"):
        find_weights("mnist", tmp_path)


def test_it_has_no_raw_weights(tmp_path):
    with pytest.raises(UsageError, match="EMA weights only"):
        find_weights("mnist", tmp_path, ema=False)


def test_unknown_names_are_still_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no run 'mnits'"):
        find_weights("mnits", Path(tmp_path))
