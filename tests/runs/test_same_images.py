"""Images and labels of a run, and those that it would go on with."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ditkit import recipes
from ditkit.errors import DataError
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import ModelInfo, resolve_labels
from ditkit.runs.same_images import check_finished, check_same_images


@dataclass(frozen=True)
class _Images:
    labels: tuple[str, ...] = ("a", "b")
    fingerprint: str = "1"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_config(recipes.load("folder", {"data": {"path": "/photos/a"}}))
    return folder


def _config(path: str = "/photos/a"):
    config = recipes.load("folder")
    return replace(config, data=replace(config.data, path=path))


@pytest.mark.parametrize(
    ("now", "path", "message", "hint"),
    [
        (_Images(labels=("a", "c")), "/photos/a", "not the labels .*: a, b; now a, c", "--label-from"),
        (_Images(labels=()), "/photos/a", "not the labels .*: a, b; now none", "--name NAME"),
        (
            _Images(fingerprint="2"),
            "/photos/a",
            "not the images .*: they have changed, or they are read",
            "put them back",
        ),
        (_Images(fingerprint="2"), "/photos/b", "was trained on /photos/a, and this is /photos/b", "--fresh; or go on"),
    ],
)
def test_other_images_or_labels_are_refused_by_name(run: RunFolder, now: _Images, path: str, message: str, hint: str):
    with pytest.raises(DataError, match=message) as caught:
        check_same_images(_Images(), now, run, _config(path))
    assert hint in str(caught.value.hint)


def test_the_same_images_are_accepted_from_anywhere_and_others_where_that_is_forced(run: RunFolder):
    check_same_images(_Images(), _Images(), run, _config("/moved"))
    check_same_images(_Images(), _Images(fingerprint="2"), run, _config(), ["images"])
    with pytest.raises(DataError, match="not the labels"):
        check_same_images(_Images(), _Images(labels=("c",)), run, _config(), ["images"])


def test_labels_that_differ_in_their_spelling_only_are_the_same(run: RunFolder):
    composed, decomposed = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    check_same_images(_Images(labels=(decomposed,)), _Images(labels=(composed,)), run, _config())
    assert resolve_labels((decomposed, "dog"), [composed, decomposed]) == [decomposed] * 2
    assert resolve_labels((composed, "dog"), [decomposed]) == [composed]


def test_a_run_without_a_readable_checkpoint_is_not_compared(run: RunFolder):
    check_finished(_Images(fingerprint="2"), run, _config("/photos/b"))


def test_the_labels_of_a_weights_file_are_composed_when_it_is_read():
    info = ModelInfo(config=recipes.load("folder"), labels=(unicodedata.normalize("NFD", "Käse"), "dog"), step=1)
    assert ModelInfo.from_json(info.to_json(), Path("ema.safetensors")).labels == ("Käse", "dog")
