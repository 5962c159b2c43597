"""Files appear whole or not at all, and only checked bytes count."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import types
from collections import namedtuple

import pytest
import torch
from platforms import as_windows
from training_runs import run

from ditkit.checkpoint import loading
from ditkit.checkpoint.tensors import load_into
from ditkit.errors import BusyError, CheckpointError, MachineError
from ditkit.events import Finished, Warned
from ditkit.io import atomic
from ditkit.io import safetensors as tensor_files
from ditkit.runs import manifest
from ditkit.runs.folder import RunFolder, lock
from ditkit.training import loop

Usage = namedtuple("Usage", "total used free")


def test_a_rename_that_a_virus_scanner_refuses_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    refusals, original = [PermissionError(13, "in use"), PermissionError(13, "in use")], os.replace

    def refuse(old, new):
        if refusals:
            raise refusals.pop()
        original(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    atomic.write_atomically(tmp_path / "a.txt", "whole\n")
    assert (tmp_path / "a.txt").read_text() == "whole\n" and not refusals
    refusals += [PermissionError(13, "in use")] * 99
    with pytest.raises(PermissionError):
        atomic.write_atomically(tmp_path / "a.txt", "other\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "whole\n"


def test_windows_may_refuse_a_rename_for_ten_seconds(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    real, free_after = os.replace, 9.0

    def replace(old, new):
        if clock.now < free_after:
            raise PermissionError(13, "in use")
        real(old, new)

    as_windows(monkeypatch, atomic)
    monkeypatch.setattr(atomic, "time", clock)
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "a").touch()
    atomic.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").exists() and 9 <= clock.now < 10
    free_after = 30.0
    with pytest.raises(PermissionError):
        atomic.rename(tmp_path / "b", tmp_path / "c")
    assert 19 < clock.now < 21


def test_a_path_that_windows_may_find_too_long_is_said_to_be(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    names = ("short", "/".join(["folder"] * 40))
    for system in ("Linux", "Windows"):
        if system == "Windows":
            as_windows(monkeypatch, atomic)
        for name in names:
            with pytest.raises(MachineError) as caught, monkeypatch.context() as patch:
                patch.setattr(atomic, "make_folder", lambda path: None)
                patch.setattr(os, "open", refuse)
                atomic.write_file(tmp_path / name, b"data")
            assert ("shorter path" in str(caught.value.hint)) == (system == "Windows" and name == names[1])


@pytest.mark.skipif(os.name == "nt", reason="Windows does not sync folders")
def test_macos_is_told_to_empty_the_drives_cache_and_a_network_drive_may_not_know_how(tmp_path, monkeypatch):
    asked, synced = [], []
    fcntl = types.SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda descriptor, what: asked.append(what))
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    monkeypatch.setattr(atomic, "sys", types.SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(os, "fsync", synced.append)
    atomic.write_file(tmp_path / "a", b"data")
    assert asked == [51, 51] and not synced, "of the file and of its folder"

    def refuse(descriptor, what):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    atomic.write_file(tmp_path / "a", b"data")
    assert len(synced) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows does not sync folders")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_network_drive_that_cannot_sync_folders_holds_runs_all_the_same(number, tmp_path, monkeypatch):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_file(tmp_path / "a.png", b"data")
    assert (tmp_path / "a.png").read_bytes() == b"data"
    number = errno.EIO
    with pytest.raises(MachineError, match="Input/output error"):
        atomic.write_file(tmp_path / "a.png", b"data")


def test_a_file_is_forced_to_disk_before_it_gets_its_name_and_its_name_after(tmp_path, monkeypatch):
    calls, real_sync, real_rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), real_sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("rename"), real_rename(old, new)))
    atomic.write_file(tmp_path / "a.png", b"data")
    assert calls == ["fsync", "rename", "fsync"] and (tmp_path / "a.png").read_bytes() == b"data"


def test_a_short_write_is_finished(tmp_path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, view: original(descriptor, bytes(view[:7])))
    content = os.urandom(100)
    assert atomic.write_synced(tmp_path / "a", content) == atomic.describe(content)
    assert (tmp_path / "a").read_bytes() == content


def test_tensors_are_written_as_the_library_would_read_and_write_them(tmp_path):
    pytest.importorskip("safetensors", "0.7", "earlier ones fail on a tensor without elements")
    import safetensors.torch

    source = torch.Generator().manual_seed(0)
    tensors = {
        "weights": torch.randn(3, 5, generator=source),
        "turned": torch.randn(3, 5, generator=source).T,
        "half": torch.randn(7, generator=source).half(),
        "brain": torch.randn(7, generator=source).bfloat16(),
        "step": torch.tensor(3.0),
        "nothing": torch.zeros(0, 4),
    }
    sums = atomic.write_synced(tmp_path / "a", tensor_files.pieces(tensors, {"card": "ä"}))
    assert sums == atomic.describe((tmp_path / "a").read_bytes())
    read = safetensors.torch.load_file(tmp_path / "a")
    assert {name: value.dtype for name, value in read.items()} == {name: one.dtype for name, one in tensors.items()}
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    with safetensors.safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == {"card": "ä"}
    packed = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    for content in ((tmp_path / "a").read_bytes(), packed, safetensors.torch.save({})):
        ours, theirs = tensor_files.parse(bytearray(content), tmp_path), safetensors.torch.load(content)
        assert {name: value.dtype for name, value in ours.items()} == {n: value.dtype for n, value in theirs.items()}
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        },
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**64]}},
        {"a": {"dtype": "X32", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": None},
        [],
        "text",
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(header, tmp_path):
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    with pytest.raises(CheckpointError, match="is damaged"):
        tensor_files.parse(bytearray(content), tmp_path)
    with pytest.raises(CheckpointError, match="is damaged"):
        tensor_files.parse(bytearray((10**18).to_bytes(8, "little") + content[8:]), tmp_path)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_believed(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=3)
    run(tiny(seed=1), tmp_path / "other", stop_after=3)
    ours, theirs = (RunFolder(tmp_path / name).checkpoint(3) for name in ("r", "other"))
    files = manifest.read(ours)
    shutil.copyfile(theirs / "ema.safetensors", ours / "ema.safetensors")
    with pytest.raises(CheckpointError, match="its checksum differs"):
        manifest.read_file(ours, "ema.safetensors", files)


def test_a_checkpoint_that_too_many_open_files_hide_is_neither_damaged_nor_passed_over(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "r", stop_after=5)
    folder, real = RunFolder(tmp_path / "r"), os.open

    def refuse(path, *rest, **options):
        if str(path).endswith("ema.safetensors"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(MachineError, match=r"cannot open .*Too many open files"):
        patch.setattr(os, "open", refuse)
        run(tiny(), tmp_path / "r")
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-0000005"]
    assert run(tiny(), tmp_path / "r").of(Finished)[0].reason == "done"


def test_too_little_room_for_the_checkpoints_is_reported_before_the_first_step(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(MachineError, match=r"0 MB free, but 3 checkpoints need \d+ MB") as caught:
        run(tiny(), tmp_path / "r")
    assert caught.value.exit_code == 6 and "--runs-dir" in str(caught.value.hint)
    assert RunFolder(tmp_path / "r").checkpoint_steps() == []


def test_a_disk_that_fills_up_keeps_the_checkpoints_that_are_there(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "r", stop_after=5)
    free = iter([10**12, 10**5])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 0, next(free)))
    with pytest.raises(MachineError, match="the checkpoint of step 10"):
        run(tiny(), tmp_path / "r")
    folder = RunFolder(tmp_path / "r")
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-0000005"]
    monkeypatch.undo()
    assert run(tiny(), tmp_path / "r").of(Finished)[0].reason == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_second_run_in_a_folder_is_refused_with_the_name_of_the_first(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=2)
    folder = RunFolder(tmp_path / "r")
    with lock(folder):
        pid = os.fork()
        if pid == 0:
            try:
                with lock(folder):
                    os._exit(1)
            except BusyError as error:
                os._exit(42 if f"pid {os.getppid()} on " in error.message and error.exit_code == 7 else 2)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 42


def test_a_run_of_another_torch_or_with_other_threads_says_that_the_last_bits_may_differ(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "r", stop_after=2)
    place = RunFolder(tmp_path / "r").checkpoint(2)
    state = json.loads((place / "state.json").read_text())
    state["versions"]["torch"], state["threads"] = "1.0", 64
    (place / "state.json").write_text(json.dumps(state))
    files = {**manifest.read(place), "state.json": atomic.describe((place / "state.json").read_bytes())}
    (place / manifest.NAME).write_bytes(manifest.write(2, files))
    (warning,) = run(tiny(), tmp_path / "r", stop_after=3).of(Warned)
    assert f"torch 1.0 is now {torch.__version__}, threads 64 is now" in warning.text


def test_a_checkpoint_never_holds_numbers_that_are_not_finite(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=3)
    trained = loading.load(tmp_path / "r")
    tensors = {name: value.clone() for name, value in trained.network.state_dict().items()}
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        load_into(trained.network, tensors, tmp_path)


def test_a_worker_that_dies_is_one_clear_error_and_the_checkpoints_stay(tiny, tmp_path, monkeypatch):
    def dying(batches, start, config):
        yield from (batches.batch(step) for step in range(start, 7))
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(loop.workers, "iterate", dying)
    with pytest.raises(MachineError, match=r"ended or hangs: .*pid 7.*step 7 is kept") as caught:
        run(tiny(), tmp_path / "r")
    assert "data.workers=0" in str(caught.value.hint)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/report\.html'"):
        atomic.write_atomically(tmp_path / "report.html", "text")
    assert not list(tmp_path.iterdir())
