"""A run's folder that others move, remove, replace or read while it is trained."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from harness import finish, fork
from training_runs import digest, run

from ditkit.checkpoint import store
from ditkit.cli.app import main
from ditkit.errors import DataError
from ditkit.events import Stepped
from ditkit.io import locks
from ditkit.io.paths import make_free_folder
from ditkit.runs.folder import FolderLostError, RunFolder
from ditkit.runs.lookup import find_weights
from ditkit.training.loop import train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses to move a folder with open files")


def lost(config, folder: Path, what_happens, at: int = 7) -> FolderLostError:
    """The error of a run to whose folder something happens after a step."""

    def listen(event) -> None:
        if isinstance(event, Stepped) and event.step == at:
            what_happens()

    with pytest.raises(FolderLostError) as caught:
        train(config, folder, listen, device="cpu")
    return caught.value


@pytest.mark.parametrize("replaced", [False, True], ids=["moved", "replaced by another run"])
def test_a_run_whose_folder_is_moved_saves_beside_it_and_ends_as_if_it_were_there(tiny, tmp_path, replaced):
    config = tiny()
    run(config, tmp_path / "straight")
    other: list[str] = []

    def move() -> None:
        (tmp_path / "run").rename(tmp_path / "old")
        if replaced:
            run(tiny(seed=1), tmp_path / "run", stop_after=3)
            other.append(digest(tmp_path / "run"))

    error = lost(config, tmp_path / "run", move)
    assert error.exit_code == 6 and "was moved, removed or replaced" in error.message
    rescued = tmp_path / "run-rescued"
    assert f"saved in {rescued}" in (error.hint or "")
    assert RunFolder(tmp_path / "old").checkpoint_steps() == [5]  # nothing was written through its new path either
    assert [digest(tmp_path / "run")] == other if replaced else not (tmp_path / "run").exists()
    train(config, rescued, device="cpu")
    assert digest(rescued) == digest(tmp_path / "straight")


def test_a_run_whose_folder_is_removed_keeps_its_steps(tiny, tmp_path):
    lost(tiny(), tmp_path / "run", lambda: shutil.rmtree(tmp_path / "run"))
    assert RunFolder(tmp_path / "run-rescued").last_step() >= 7
    assert len(RunFolder(tmp_path / "run-rescued").metrics()) >= 7


def test_metrics_that_are_removed_while_a_run_trains_are_written_again(tiny, tmp_path):
    run(tiny(), tmp_path / "straight")

    def remove(event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            (tmp_path / "run/metrics.jsonl").unlink()

    train(tiny(), tmp_path / "run", remove, device="cpu")
    assert digest(tmp_path / "run") == digest(tmp_path / "straight")


def test_a_checkpoint_of_another_run_is_refused(tiny, tmp_path):
    run(tiny(), tmp_path / "run", stop_after=5)
    run(tiny(seed=1), tmp_path / "other", stop_after=8)
    shutil.copytree(RunFolder(tmp_path / "other").checkpoint(8), RunFolder(tmp_path / "run").checkpoint(8))
    with pytest.raises(DataError, match=r"step-0000008 is of another run: seed = 1 \(here 0\)"):
        train(tiny(), tmp_path / "run", device="cpu")


def test_a_checkpoint_that_another_process_reads_is_not_removed(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "run", stop_after=5)
    folder = RunFolder(tmp_path / "run")
    ready, go = os.pipe()

    def read_slowly() -> int:
        find_weights(str(folder.path), tmp_path)
        os.write(go, b"x")
        os.read(gate, 1)
        return 0

    gate, opened = os.pipe()
    reader = fork(read_slowly, tmp_path / "log")
    os.read(ready, 1)
    for path in (6, 7):
        shutil.copytree(folder.checkpoint(5), folder.checkpoint(path))
    store.prune(folder, 1)
    assert folder.checkpoint_steps() == [5, 7]
    os.write(opened, b"x")
    assert finish(reader) == 0
    store.prune(folder, 1)
    assert folder.checkpoint_steps() == [7]


def test_the_newest_checkpoint_is_looked_for_again_when_it_goes_meanwhile(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "run", stop_after=5)
    folder = RunFolder(tmp_path / "run")
    keep = locks.keep_for_reading
    gone: list[Path] = []

    def pruned_first(checkpoint: Path) -> bool:
        if not gone:  # the run saves the next one, and removes this one, just now
            gone.append(checkpoint)
            train(tiny(train={"keep": 1}), folder.path, device="cpu")
        return keep(checkpoint)

    monkeypatch.setattr("ditkit.runs.lookup.keep_for_reading", pruned_first)
    weights = find_weights(str(folder.path), tmp_path)
    locks.done_reading(weights.parent)
    assert gone == [folder.checkpoint(5)] and not gone[0].exists()
    assert weights == folder.checkpoint(12) / "ema.safetensors"


def test_two_processes_never_make_the_same_free_folder(tmp_path):
    def make(_part: int) -> int:
        for _ in range(20):
            (make_free_folder(tmp_path / "samples") / f"{os.getpid()}").touch()
        return 0

    children = [fork(lambda part=part: make(part), tmp_path / f"log-{part}") for part in range(3)]
    assert [finish(child) for child in children] == [0, 0, 0]
    assert [len(list(folder.iterdir())) for folder in tmp_path.glob("samples*")] == [1] * 60


def test_what_was_claimed_for_a_result_that_never_came_goes_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--model", "mnist", "--labels", "3", "--device", "cuda:77"]) != 0
    assert main(["make-gif", "denoise", "--model", "mnist", "--labels", "3", "--device", "cuda:77"]) != 0
    assert not list(tmp_path.iterdir())
