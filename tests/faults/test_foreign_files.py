"""What ditkit did not make: never overwritten unless asked to, and never executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from command_line import draw_black, said, write_run
from PIL import Image

from ditkit import load, recipes
from ditkit.errors import CheckpointError

MINE = b"the user's own"


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with one sample grid; nothing is really drawn or measured."""
    from ditkit.estimation.lr_finder import LRCurve

    curve = LRCurve(rates=[1e-4, 1e-3], losses=[2.0, 1.0], smoothed=[2.0, 1.0], suggestion=1e-4, lowest=2e-4)
    draw_black(monkeypatch)
    monkeypatch.setattr("ditkit.estimation.lr_finder.find_lr", lambda *_, **__: curve)
    run = write_run(Path("runs"))
    (run / "samples").mkdir()
    Image.new("L", (8, 8)).save(run / "samples/step-0000100.png")
    return run


WRITING = [
    ("sample --out made", "made/000-cat.png"),
    ("sample --out made", "made/grid.png"),
    ("make-gif --out mine.gif", "mine.gif"),
    ("make-gif denoise --out mine.gif", "mine.gif"),
    ("plot-loss --out mine.png", "mine.png"),
    ("plot-loss --out mine.svg", "mine.svg"),
    ("lr-find mnist --out mine.png", "mine.png"),
    ("lr-find mnist --out mine.png", "mine.json"),
]


@pytest.mark.parametrize(("line", "file"), WRITING)
def test_a_file_that_is_there_is_overwritten_only_with_force(
    line: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_bytes(MINE)
    before = sorted(Path().rglob("*"))
    code, out, err = said(capsys, line)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"error: {file} is there already"
    assert err.splitlines()[1].startswith("hint: overwrite") and "--force" in err
    assert Path(file).read_bytes() == MINE and sorted(Path().rglob("*")) == before
    code, _, err = said(capsys, f"{line} --force")
    assert code == 0, err
    assert Path(file).read_bytes() != MINE


def test_a_broken_link_counts_as_a_file_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.gif").symlink_to("nowhere")
    assert said(capsys, "make-gif --out mine.gif")[0] == 2
    assert Path("mine.gif").is_symlink()


@pytest.mark.parametrize(
    ("line", "mine", "made"),
    [
        ("plot-loss pets other", "loss.png", "loss-2.png"),
        ("lr-find mnist", "lr-find-mnist.png", "lr-find-mnist-2.png"),
        ("make-gif denoise --model weights.safetensors", "denoise.gif", "denoise-2.gif"),
        ("sample", "samples/pets-100", "samples/pets-100-2"),
    ],
)
def test_a_name_that_nobody_gave_is_one_that_is_free(
    line: str, mine: str, made: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(Path("runs"), "other")
    os.utime(run / "config.toml", (4e9, 4e9))
    os.link(run / "checkpoints/step-0000100/ema.safetensors", "weights.safetensors")
    Path(mine).parent.mkdir(exist_ok=True)
    Path(mine).write_bytes(MINE)
    code, _, err = said(capsys, line)
    assert code == 0, err
    assert Path(mine).read_bytes() == MINE and Path(made).exists()


@pytest.mark.parametrize(
    ("line", "made"), [("plot-loss", "loss.png"), ("make-gif", "progress.gif"), ("make-gif denoise", "denoise.gif")]
)
def test_what_ditkit_drew_into_a_run_is_drawn_again(
    line: str, made: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, line)[0] == 0
    first = (run / made).stat().st_mtime_ns
    assert said(capsys, line)[0] == 0
    assert (run / made).stat().st_mtime_ns > first and not list(run.glob("*-2.*"))


@pytest.mark.parametrize(
    ("made", "words", "message"),
    [
        ("file", "", "exists and is not a run of ditkit"),
        ("notes.txt", "", "exists and is not a run of ditkit"),
        ("notes.txt", "--fresh", "exists and is not a run of ditkit"),
        (".hidden", "", "exists and is not a run of ditkit"),
        ("config.toml", "", "runs/mine/config.toml: unknown setting 'title'"),
        ("checkpoints config.toml", "", "runs/mine/config.toml: unknown setting 'title'"),
    ],
)
def test_training_leaves_a_foreign_folder_alone(
    made: str, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path("runs/mine")
    if made == "file":
        place.write_bytes(MINE)
    else:
        place.mkdir()
        *folders, file = made.split()
        for folder in folders:
            (place / folder).mkdir()
        (place / file).write_text('title = "another program"\n', encoding="utf-8")
    before = sorted(Path().rglob("*"))
    code, _, err = said(capsys, f"train mnist --name mine {words}")
    assert (code, message in err) == (2, True), err
    assert sorted(Path().rglob("*")) == before


def test_show_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert said(capsys, "show")[:2] == (0, recipes.dump(recipes.load("mnist")))
    assert sorted(Path().rglob("*")) == before


# --- pickles


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_the_trap_works() -> None:
    pickle.loads(pickle.dumps(_Evil()))  # noqa: S301
    assert Path("executed").is_dir()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".PT"])
@pytest.mark.parametrize("command", ["sample", "make-gif denoise"])
def test_a_pickle_is_refused_and_never_opened(suffix: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"model{suffix}").write_bytes(pickle.dumps(_Evil()))
    code, out, err = said(capsys, f"{command} --model model{suffix}")
    assert (code, out) == (4, "")
    assert err.splitlines() == [
        f"error: model{suffix} may be a pickle, which can run any code when opened; ditkit reads .safetensors",
        f"hint: bring in its weights, without running any of it, with `ditkit import model{suffix}`",
    ]
    with pytest.raises(CheckpointError, match="can run any code"):
        load(f"model{suffix}")
    assert not Path("executed").exists()


def test_a_pickle_by_another_name_is_damaged_and_never_executed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("model.safetensors").write_bytes(pickle.dumps(_Evil()))
    code, _, err = said(capsys, "sample --model model.safetensors")
    assert (code, err.count("error:")) == (4, 1) and "model.safetensors is not a weights file" in err
    for name in ("ema.safetensors", "state.json", "manifest.json"):
        (run / "checkpoints/step-0000100" / name).write_bytes(pickle.dumps(_Evil()))
    code, _, err = said(capsys, "sample")
    assert (code, err.count("error:")) == (4, 1) and "Traceback" not in err
    assert not Path("executed").exists()
