"""`ditkit sweep`: every combination once, equal seeds, and nothing lost when it is stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import ditkit
from ditkit.cli.app import main
from ditkit.config import SampleConfig
from ditkit.errors import UsageError
from ditkit.evaluation.figures import written
from ditkit.evaluation.sweep import SweepRow, table


@pytest.fixture(autouse=True)
def few_real_images(monkeypatch):
    monkeypatch.setattr("ditkit.evaluation.reference.MOST_IMAGES", 300)


def sweep(capsys, *line: str) -> tuple[int, str, str]:
    code = main(["sweep", "mnist", "--device", "cpu", *line])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_every_combination_is_drawn_once_and_looks_as_sample_draws_it(tmp_path, capsys):
    line = ["--guidance", "1,3", "--steps", "2, 4,2", "--labels", "7", "--out", "all"]
    code, out, err = sweep(capsys, *line)
    assert code == 0 and "4 ways of drawing 1 image each" in err
    rows = json.loads((tmp_path / "all/sweep.json").read_text(encoding="utf-8"))["ways"]
    assert [(row["steps"], row["guidance"]) for row in rows] == [(2, 1), (2, 3), (4, 1), (4, 3)]
    assert [row["calls"] for row in rows] == [2, 2, 4, 4] and all(row["seconds_an_image"] > 0 for row in rows)
    assert out.count("\n") == 2 + 4 + 1 and (tmp_path / "all/sweep.md").read_text(encoding="utf-8") in out
    assert main(["sample", "--model", "mnist", "--labels", "7", "--guidance", "3", "--steps", "4", "--out", "one"]) == 0
    with Image.open(tmp_path / "one/000-7.png") as one, Image.open(tmp_path / "all/sweep.png") as picture:
        single, whole = np.asarray(one.convert("L")), np.asarray(picture.convert("L"))
    factor = next((scale for scale in range(1, 9) if _contains(whole, single.repeat(scale, 0).repeat(scale, 1))), None)
    assert factor, "the image that `sample` draws is not in the picture"


def _contains(whole: np.ndarray, part: np.ndarray) -> bool:
    height, width = part.shape
    windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)[:, :, height // 2, width // 2]
    places = np.argwhere(windows == part[height // 2, width // 2])
    return any((whole[y : y + height, x : x + width] == part).all() for y, x in places)


def test_ways_are_judged_and_what_they_depend_on_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ditkit.evaluation.judge.FEW", 2)
    code, out, _ = sweep(capsys, "--steps", "1,8", "--samples", "30", "--labels", "1", "2", "--json")
    answer = json.loads(out)
    bad, good = (way["metrics"] for way in answer["ways"])
    assert code == 0 and answer["samples"] == 30 and good["frechet"] < bad["frechet"]
    assert answer["ways"][0]["judged"]["drawn"]["labels_as"] == "data"
    table = next((tmp_path / "sweeps").glob("*/sweep.md")).read_text(encoding="utf-8").splitlines()
    assert written(bad, "frechet") in table[2] and written(good, "frechet") in table[3]
    assert "30 images a row against 300 real ones (the Fréchet distance of 30 of these to the other 270 is" in table[5]
    assert "labels as often as the real images have them" in table[5] and "ms an image, 2 at once" in table[0]
    assert sweep(capsys, "--samples", "20", "--labels-as", "even", "--out", "even")[0] == 0
    assert "labels in turn" in (tmp_path / "even/sweep.md").read_text(encoding="utf-8")


def judged(**metrics: float) -> SweepRow:
    about = {"drawn": {"samples": 30}, "reference": {"images": 300}, "labels": None}
    row = {"settings": SampleConfig(), "ema": None, "images": [], "calls": 1, "seconds_an_image": 1.0}
    return SweepRow(**row, metrics=metrics, about=about)


def test_the_best_is_bold_only_beyond_noise():
    rows = [
        judged(frechet=5, frechet_error=0.1, kid=0.40, kid_error=0.01, accuracy=0.9, accuracy_error=0.01),
        judged(frechet=3, frechet_error=0.1, kid=0.11, kid_error=0.01, accuracy=0.91, accuracy_error=0.01),
        judged(frechet=4, frechet_error=0.1, kid=0.10, kid_error=0.01, accuracy=0.8, accuracy_error=0.01),
    ]
    lines = table(rows)
    assert "**3.00 ± 0.10**" in lines[3] and sum(line.count("**") for line in lines) == 2
    assert "no row is best beyond noise (two standard errors) in KID, accuracy: draw more images" in lines[-1]


def test_a_kid_below_0_is_never_the_best_and_is_explained():
    lines = table([judged(kid=-0.05, kid_error=0.001), judged(kid=0.5, kid_error=0.001)])
    assert not any("**" in line for line in lines) and "a KID below 0 is 0 within its error" in lines[-1]
    assert not any("no row is best beyond noise" in line for line in lines)  # which would be untrue: they differ
    assert "**0.5000 ± 0.0010**" in "".join(table([judged(kid=0.5, kid_error=0.001), judged(kid=0.9, kid_error=0.01)]))


def test_what_has_no_error_is_never_the_best():
    assert not any("**" in line for line in table([judged(frechet=1), judged(frechet=9, frechet_error=0.1)]))


def test_what_is_done_is_kept_when_it_is_stopped(tmp_path, capsys, monkeypatch):
    from ditkit.sampling import generate

    calls, real = [], generate.sample

    def stops(*words, **how):
        calls.append(how["settings"].steps if "settings" in how else how["steps"])
        if calls[-1] == 4:
            raise KeyboardInterrupt
        return real(*words, **how)

    monkeypatch.setattr("ditkit.sampling.generate.sample", stops)
    code, *_ = sweep(capsys, "--steps", "3,4,5", "--labels", "7", "--out", "part")
    assert code == 130 and calls[-1] == 4
    assert [row["steps"] for row in json.loads((tmp_path / "part/sweep.json").read_bytes())["ways"]] == [3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--steps", "5,ten"], "--steps"),
        (["--steps", "5,,10"], "empty place"),
        (["--sampler", "flow-euler,flow-oiler"], "did you mean 'flow-euler'"),
        (["--guidance", ",".join(map(str, range(101)))], "101 ways"),
        (["--samples", "20", "--features", "nobody"], "unknown extractor"),
    ],
)
def test_mistakes_are_said_in_one_line(capsys, line, said):
    code, out, err = sweep(capsys, *line)
    assert code == 2 and not out and said in err and len(err.splitlines()) <= 2


def test_called_from_python_it_gives_rows_and_images_and_prints_nothing(capsys):
    seen = []
    rows = ditkit.sweep(
        "mnist", {"steps": [2, 3], "guidance": [1.5]}, labels=["7"], seed=5, device="cpu", on_row=seen.append
    )
    assert [row.settings.steps for row in rows] == [row.calls for row in seen] == [2, 3]
    (image,) = ditkit.sample(ditkit.load("mnist"), ["7"], steps=3, guidance=1.5, seed=5)
    assert (rows[1].images[0].image == image.image).all() and rows[1].metrics is None
    assert capsys.readouterr() == ("", "")
    for varied, message in (({"lr": [1]}, "cannot vary lr"), ({"steps": [0]}, "sample.steps")):
        with pytest.raises(UsageError, match=message):
            ditkit.sweep("mnist", varied, device="cpu")
