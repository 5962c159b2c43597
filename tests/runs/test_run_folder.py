"""A run's folder: found, started, continued, refused, locked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ditkit import recipes
from ditkit.errors import CheckpointError, DitkitError, MachineError, UsageError
from ditkit.io.atomic import write_synced
from ditkit.runs import folder as run_folder
from ditkit.runs import manifest
from ditkit.runs.folder import RunFolder
from ditkit.runs.lookup import find_run, find_weights, run_names
from ditkit.runs.metrics import MetricsFile, read_metrics, read_rows
from ditkit.runs.resume import prepare_run, start_or_resume


def a_run(path, steps=(), **overrides):
    folder = prepare_run(recipes.load("mnist", overrides), path).folder
    for step in steps:
        folder.checkpoint(step).mkdir(parents=True)
        files = {name: write_synced(folder.checkpoint(step) / name, b"") for name in manifest.FILES}
        (folder.checkpoint(step) / manifest.NAME).write_bytes(manifest.write(step, files))
    return folder


def test_a_new_run_writes_its_settings_and_starts_at_zero(tmp_path):
    config = recipes.load("mnist")
    prepared = prepare_run(config, tmp_path / "runs" / "mnist")
    assert (prepared.step, prepared.finished) == (0, False)
    assert prepared.folder.read_config() == config


def test_the_same_settings_continue_and_know_when_they_are_done(tmp_path):
    a_run(tmp_path / "m", steps=[100, 200], train={"steps": 200})
    prepared = prepare_run(recipes.load("mnist", {"train": {"steps": 200}}), tmp_path / "m")
    assert (prepared.step, prepared.finished) == (200, True)


def test_more_steps_continue_a_finished_run(tmp_path):
    a_run(tmp_path / "m", steps=[200], train={"steps": 200})
    prepared = prepare_run(recipes.load("mnist", {"train": {"steps": 400}}), tmp_path / "m")
    assert not prepared.finished and prepared.config.train.steps == 400
    assert prepared.folder.read_config().train.steps == 200, "written once the run goes on with it"


def test_a_changed_setting_is_named_with_both_values_and_nothing_changes(tmp_path):
    folder = a_run(tmp_path / "m", optim={"lr": 0.001})
    before = folder.config_file.read_bytes()
    with pytest.raises(UsageError) as caught:
        prepare_run(recipes.load("mnist", {"optim": {"lr": 0.002}}), tmp_path / "m")
    assert "optim.lr = 0.001 (now 0.002)" in caught.value.message
    assert "--fresh" in str(caught.value.hint)
    assert folder.config_file.read_bytes() == before


def test_fresh_takes_the_next_free_name_and_leaves_the_old_run_alone(tmp_path):
    old = a_run(tmp_path / "m", steps=[5])
    names = [prepare_run(recipes.load("mnist"), tmp_path / "m", fresh=True).folder.path.name for _ in range(2)]
    assert names == ["m-2", "m-3"]
    assert old.checkpoint_steps() == [5]


def test_a_folder_that_is_no_run_is_never_written_to(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(DitkitError, match="is not a run of ditkit"):
        prepare_run(recipes.load("mnist"), tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    folder = a_run(tmp_path / "m")
    (folder.path / "run.lock").unlink(missing_ok=True)
    (folder.path / "run.lock").mkdir()
    with pytest.raises(MachineError, match=r"cannot write to .*m: ") as caught, run_folder.lock(folder):
        pass
    assert caught.value.hint == "choose another --runs-dir"
    (folder.path / "run.lock").rmdir()
    with pytest.raises(FileNotFoundError), run_folder.lock(folder):
        raise FileNotFoundError  # what fails inside of it stays what it is


def test_a_folder_in_which_a_start_was_killed_is_started_again(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".config.toml.0123abcd.tmp").write_text("[da")
    assert prepare_run(recipes.load("mnist"), tmp_path / "m").step == 0
    assert RunFolder(tmp_path / "m").is_run()


def test_the_newest_run_is_the_one_worked_on_last(tmp_path):
    for index, name in enumerate(("b", "c", "a")):
        folder = a_run(tmp_path / name)
        os.utime(folder.config_file, (1000 + index, 1000 + index))
    (tmp_path / "c" / "metrics.jsonl").write_text("")
    assert run_names(tmp_path)[0] == "c"
    assert find_run(None, tmp_path).path.name == "c"
    assert find_run("a", tmp_path).path.name == "a"
    assert find_run(str(tmp_path / "b"), tmp_path).path.name == "b"


def test_no_run_and_an_unknown_run_say_what_to_do(tmp_path):
    with pytest.raises(DitkitError, match="there is no run in"):
        find_run(None, tmp_path)
    a_run(tmp_path / "mnist")
    with pytest.raises(UsageError) as caught:
        find_run("mnits", tmp_path)
    assert "'mnist'" in str(caught.value.hint)


def test_unfinished_checkpoints_do_not_count(tmp_path):
    folder = a_run(tmp_path / "m", steps=[100, 200])
    (folder.checkpoints / ".tmp-step-0000400-abc").mkdir()
    assert folder.checkpoint_steps() == [100, 200]
    folder.checkpoint(300).mkdir()
    reported = []
    assert folder.newest_whole("ema.safetensors", reported.append) == folder.checkpoint(200)
    assert reported == [folder.checkpoint(300)] and folder.last_step() == 200


def test_weights_are_found_by_run_checkpoint_and_file(tmp_path):
    folder = a_run(tmp_path / "m", steps=[100, 200])
    newest, older = folder.checkpoint(200) / "ema.safetensors", folder.checkpoint(100)
    assert find_weights(None, tmp_path) == newest
    assert find_weights("m", tmp_path) == newest
    assert find_weights(str(older), tmp_path) == older / "ema.safetensors"
    assert find_weights(str(older), tmp_path, ema=False) == older / "model.safetensors"
    assert find_weights(str(older / "ema.safetensors"), tmp_path) == older / "ema.safetensors"
    assert find_weights(str(older / "ema.safetensors"), tmp_path, ema=False) == older / "model.safetensors"


def test_a_run_without_checkpoint_and_a_file_of_another_kind_are_refused(tmp_path):
    a_run(tmp_path / "m")
    with pytest.raises(DitkitError, match="has no checkpoint yet"):
        find_weights("m", tmp_path)
    (tmp_path / "model.pt").write_text("")
    with pytest.raises(CheckpointError, match="may be a pickle"):
        find_weights(str(tmp_path / "model.pt"), tmp_path)
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        find_weights(str(tmp_path / "model.txt"), tmp_path)


def test_nonsense_in_config_toml_names_the_file_and_the_key(tmp_path):
    folder = a_run(tmp_path / "m")
    folder.config_file.write_text("[train]\nsteps = -3\n")
    with pytest.raises(UsageError, match=r"config\.toml: train\.steps: .* not -3"):
        folder.read_config()


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_a_second_process_learns_who_holds_the_run(tmp_path):
    folder = a_run(tmp_path / "m")
    program = (
        "import sys, pathlib\nfrom ditkit.runs.folder import RunFolder, lock\nfrom ditkit.errors import DitkitError\n"
        "try:\n    with lock(RunFolder(pathlib.Path(sys.argv[1]))): print('locked')\n"
        "except DitkitError as error: print(error.message)"
    )

    def elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(folder.path)], capture_output=True, text=True, check=True
        ).stdout

    with run_folder.lock(folder):
        assert f"is in use by pid {os.getpid()} on " in elsewhere()
    with start_or_resume(folder.read_config(), folder.path):
        assert f"is in use by pid {os.getpid()} on " in elsewhere()
    assert elsewhere() == "locked\n"


def test_metrics_cut_off_what_was_written_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.append({"step": 1, "loss": 0.5})
    length = file.sync()
    file.append({"step": 2, "loss": 0.25})
    file.close()
    again = MetricsFile(path, length)
    again.append({"step": 2, "loss": 0.125})
    again.close()
    assert [row["loss"] for row in read_rows(path)] == [0.5, 0.125]


def test_torn_lines_are_cut_and_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1,"loss":1.0}\n{"step":2,"lo')
    assert [row["step"] for row in read_rows(path)] == [1]
    MetricsFile(path, 10_000).close()
    assert path.read_bytes() == b'{"step":1,"loss":1.0}\n'


def test_metrics_are_joined_with_their_timing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step":1,"loss":1.0}\n{"step":2,"loss":0.5}\n{"step":2,"validation_loss":3}\n'
    )
    (tmp_path / "timing.jsonl").write_text('{"step":2,"images_per_second":7.0}\n')
    rows = read_metrics(tmp_path / "metrics.jsonl", tmp_path / "timing.jsonl")
    assert rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "images_per_second": 7.0, "loss": 0.5},
        {"step": 2, "validation_loss": 3},
    ]
    assert RunFolder(tmp_path).metrics() == rows
