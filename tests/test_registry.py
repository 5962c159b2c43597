"""Names without imports: a plug-in is a file with the family's entry function."""

from __future__ import annotations

import pickle

import pytest

from ditkit.errors import DitkitError, UsageError
from ditkit.registry import AUTOENCODERS, DATASETS, OBJECTIVES, SAMPLERS, TRACKERS, Registry

FAMILIES = (DATASETS, OBJECTIVES, SAMPLERS, AUTOENCODERS, TRACKERS)


def test_the_families_hold_what_they_should():
    assert {"mnist", "celeba", "folder"} <= set(DATASETS.names())
    assert {"epsilon", "v", "x0", "velocity", "learned-sigma"} <= set(OBJECTIVES.names())
    assert {"ddpm", "ddim", "dpmpp", "unipc", "flow-euler", "flow-heun"} <= set(SAMPLERS.names())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.kind)
def test_every_plug_in_loads_and_describes_itself(family):
    for name, description in family.descriptions().items():
        assert callable(family.load(name))
        assert len(description) > 10, f"{name} needs a first docstring line"


def test_a_file_becomes_a_plug_in(tmp_path):
    file = tmp_path / "my_faces.py"
    file.write_text('"""Faces of mine."""\n\n\ndef dataset(config, split):\n    return "opened"\n')
    family = Registry("dataset", "ditkit.data", entry="dataset")
    assert family.add_file(file) == "my-faces"
    assert family.descriptions()["my-faces"] == "Faces of mine."
    assert family.load("my-faces")(None, "train") == "opened"


def test_what_a_plug_in_makes_can_be_pickled_and_files_of_one_name_are_kept_apart(tmp_path):
    family, opened = Registry("dataset", "ditkit.data", entry="dataset"), []
    for number in (1, 2):
        file = tmp_path / str(number) / "mine.py"
        file.parent.mkdir()
        file.write_text(f"class Mine:\n    number = {number}\n\n\ndef dataset(config, split):\n    return Mine()\n")
        opened.append(family.load(family.add_file(file))(None, "train"))
    assert [pickle.loads(pickle.dumps(mine)).number for mine in opened] == [1, 2]  # noqa: S301


def test_a_file_without_the_entry_function_is_refused(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(DitkitError, match="defines no function `dataset`"):
        Registry("dataset", "ditkit.data", entry="dataset").add_file(file)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError) as caught:
        SAMPLERS.check("flow-hune")
    assert caught.value.hint is not None
    assert "'flow-heun'" in caught.value.hint
