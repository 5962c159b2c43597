"""`ditkit compare`: what differs, and samples of equal seeds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import ditkit
from ditkit.cli.app import main
from ditkit.errors import UsageError
from ditkit.evaluation.compare import table
from ditkit.recipes import build, tree


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare") / "runs"
    for name, width, lr in (("narrow", 16, 1e-3), ("wide", 32, 2e-3)):
        model = {"width": width, "depth": 1, "heads": 2, "patch": 14}
        train = {"steps": 3, "batch_size": 4, "validate_every": 1, "sample_columns": 1}
        config = build(
            tree("mnist"),
            {"model": model, "optim": {"lr": lr}, "train": train, "data": {"validation": 4}, "sample": {"steps": 2}},
        )
        ditkit.train(config, place / name, device="cpu")
    record = {"metrics": {"frechet": 12.5}, "drawn": {"samples": 100}}
    (place / "wide" / "evaluation.json").write_text(json.dumps([record]), encoding="utf-8")
    return place


def evaluated(frechet: float, error: float, *, images: int = 100, labels_as: str = "data", reference: str = "a"):
    """A record of evaluation.json, as compare.json has it."""
    metrics = {"frechet": frechet, "frechet_error": error, "kid": -0.002, "kid_error": 0.003}
    about = {"images": images, "features": "lenet", "labels_as": labels_as, "reference": reference}
    return {"metrics": metrics, **about}


def compared(*evaluations) -> str:
    rows = [{"run": name, "evaluation": record} for name, record in zip("ab", evaluations, strict=True)]
    return "\n".join(table({"runs": rows, "differing": {}}))


def test_a_difference_below_noise_is_said_and_figures_carry_their_errors():
    near, far = compared(evaluated(0.5, 0.1), evaluated(0.6, 0.1)), compared(evaluated(0.5, 0.1), evaluated(2, 0.1))
    assert "| 0.50 ± 0.10 | -0.0020 ± 0.0030 |" in near and "± is one standard error" in near
    assert "no row is best beyond noise (two standard errors) in Fréchet, KID" in near
    assert "in KID:" in far and "a KID below 0 is 0 within its error" in far


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"labels_as": "even"}, "were drawn or seen in different ways"),
        ({"images": 50}, "were drawn or seen in different ways"),
        ({"reference": "b"}, "were compared with different real ones"),
    ],
)
def test_figures_that_do_not_compare_are_not_compared(other, said):
    lines = compared(evaluated(0.5, 0.01), evaluated(0.9, 0.01, **other))
    assert said in lines and "beyond noise" not in lines


@pytest.mark.parametrize(
    ("key", "said"),
    [("diffusion.weighting", True), ("data.image_size", True), ("data.workers", False), ("optim.lr", False)],
)
def test_losses_of_different_things_are_not_compared_silently(key, said):
    lines = "\n".join(table({"runs": [{"run": "a"}, {"run": "b"}], "differing": {key: [1, 2]}}))
    assert (f"other {key}: losses of different images or objectives do not compare" in lines) == said


def test_older_records_are_of_labels_in_turn(runs, tmp_path, capsys):
    assert compare(runs, "narrow", "wide", "--labels", "3", "--out", "old") == 0
    assert "Fréchet (features unknown, 100 images, labels in turn)" in capsys.readouterr().out


def compare(runs, *line: str) -> int:
    return main(["compare", *line, "--runs-dir", str(runs), "--device", "cpu"])


def test_runs_are_drawn_as_the_options_say(runs, monkeypatch):
    from ditkit.checkpoint import loading

    load, seen = loading.load, []
    monkeypatch.setattr(loading, "load", lambda *words, **how: seen.append(how) or load(*words, **how))
    assert compare(runs, "narrow", "wide", "--labels", "3", "--kernels", "off", "--dtype", "float32") == 0
    assert [(how["kernels"], how["dtype"], how["device"].type) for how in seen] == 2 * [("off", "float32", "cpu")]


def test_figures_differences_and_pictures_of_two_runs(runs, tmp_path, capsys):
    assert compare(runs, "narrow", "wide", "--labels", "3", "8", "--out", "c") == 0
    out = capsys.readouterr().out
    assert "| model.width | 16 | 32 |" in out and "| optim.lr | 0.001 | 0.002 |" in out and "model.depth" not in out
    record = json.loads((tmp_path / "c/compare.json").read_text(encoding="utf-8"))
    narrow, wide = record["runs"]
    assert narrow["parameters"] < wide["parameters"] and narrow["step"] == wide["step"] == 3
    assert wide["evaluation"]["metrics"] == {"frechet": 12.5} and "evaluation" not in narrow
    assert 0 < narrow["lowest validation loss"] <= narrow["validation loss"]
    assert (tmp_path / "c/compare.md").read_text(encoding="utf-8") in out
    with Image.open(tmp_path / "c/losses.png") as losses, Image.open(tmp_path / "c/samples.png") as samples:
        assert losses.width > 500 and np.asarray(samples).std() > 10


def test_runs_are_drawn_from_equal_seeds(runs, tmp_path, capsys):
    assert compare(runs, "narrow", str(runs / "narrow"), "--out", "same") == 2  # one run, named twice
    shutil.copytree(runs / "narrow", tmp_path / "copy")
    assert compare(runs, "narrow", str(tmp_path / "copy"), "--labels", "3", "--out", "same") == 0
    with Image.open(tmp_path / "same/samples.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    rows = pixels[:, pixels.shape[1] // 2 :]
    dark = np.flatnonzero((rows < 250).mean(axis=1) > 0.5)
    first, second = np.split(dark, np.flatnonzero(np.diff(dark) > 1)[:1] + 1)
    assert (rows[first] == rows[second[: len(first)]]).all()


def test_a_gif_of_two_runs_shows_at_each_step_the_newest_grid_of_each(runs, tmp_path, capsys):
    early = runs / "narrow" / "samples" / "step-0000001.png"
    Image.new("RGB", (60, 40), (200, 0, 0)).save(early)
    Image.new("RGB", (60, 40), (0, 0, 200)).save(runs / "wide" / "samples" / "step-0000002.png")
    try:
        assert main(["make-gif", "compare", "narrow", "wide", "--runs-dir", str(runs), "--out", "both.gif"]) == 0
    finally:
        early.unlink()
        (runs / "wide" / "samples" / "step-0000002.png").unlink()
    with Image.open(tmp_path / "both.gif") as gif:
        assert gif.n_frames == 2, "step 1 has no grid of the second run"
        colours = {colour for _, colour in gif.convert("RGB").getcolors(1 << 20) or []}
    assert any(red > 150 > blue for red, _, blue in colours) and any(blue > 150 > red for red, _, blue in colours)
    assert main(["make-gif", "compare", "narrow", "--runs-dir", str(runs)]) == 2
    assert "two runs or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["wide"], "two runs or more"),
        ([], "two runs or more"),
        (["wide", "wide"], "two runs or more"),
        (["wide", "wid"], "did you mean"),
        (["wide", "narrow", "--labels", "cat"], "unknown label"),
    ],
)
def test_mistakes_are_said_in_one_line(runs, tmp_path, capsys, line, said):
    assert compare(runs, *line) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 2 and not list(tmp_path.iterdir())


def test_each_run_has_its_own_row_also_when_no_label_is_common(runs, tmp_path, monkeypatch):
    for kind in ("cats", "dogs"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (28, 28), 60 * number).save(tmp_path / "photos" / kind / f"{number}.png")
    small = {"width": 16, "depth": 1, "heads": 2, "patch": 14}
    data = {"path": str(tmp_path / "photos"), "image_size": 28, "channels": 1, "validation": 0}
    train = {"steps": 1, "batch_size": 4, "sample_columns": 1}
    config = build(tree("folder"), {"model": small, "data": data, "train": train, "sample": {"steps": 2}})
    ditkit.train(config, tmp_path / "pets", device="cpu")
    seen = []
    monkeypatch.setattr(
        "ditkit.visual.grid.grid", lambda images, across, **words: seen.append((across, words)) or images[0]
    )
    assert compare(runs, "narrow", str(tmp_path / "pets"), "--out", "c") == 0
    ((across, words),) = seen
    captions = words["captions"]
    assert captions[:across] == list("0123456789") and captions[across:] == ["cats", "dogs"] * 5


def test_called_from_python_it_gives_what_it_writes_and_prints_nothing(runs, tmp_path, capsys):
    comparison = ditkit.compare(
        [runs / "wide", runs / "narrow", runs / "wide"], tmp_path / "c", labels=["3"], device="cpu"
    )
    assert comparison == json.loads((tmp_path / "c/compare.json").read_text(encoding="utf-8"))
    assert comparison["differing"]["model.width"] == [32, 16] and comparison["runs"][1]["step"] == 3
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UsageError, match="two runs or more"):
        ditkit.compare([runs / "wide"], tmp_path / "d")
