"""Errors of the machine while images are read: not bad images, but a reason to wait, and then to save and stop."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_runs import Listener, digest, run

from ditkit.data import decode
from ditkit.errors import DataError, MachineError
from ditkit.events import Stepped
from ditkit.runs.folder import RunFolder
from ditkit.training.loop import train

MACHINE = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.ETIMEDOUT]


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(decode, "_RETRIES", (0.0, 0.0, 0.0))
    folder = tmp_path / "photos"
    for index in range(40):
        place = folder / ("cat" if index % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        level = np.full((28, 28), 6 * index, np.uint8)
        Image.fromarray(level).save(place / f"{index:02d}.png")
    return folder


def config(tiny, photos: Path, workers: int = 0):
    data = {"name": "folder", "path": str(photos), "validation": 4, "workers": workers, "max_bad": 0.5}
    return tiny(data=data, train={"batch_size": 8, "steps": 16, "save_every": 100})


def failing(monkeypatch, error: BaseException, when) -> list[str]:
    """Every opening of a file for which `when` says so raises an error; returns the names of these."""
    names: list[str] = []
    real = decode.open_file

    def open_or_fail(path):
        if when(path):
            names.append(path.name)
            raise error
        return real(path)

    monkeypatch.setattr(decode, "open_file", open_or_fail)
    monkeypatch.setattr("ditkit.data.sources.files.open_file", open_or_fail, raising=False)
    return names


@pytest.mark.parametrize("number", MACHINE, ids=[errno.errorcode[number] for number in MACHINE])
def test_what_the_machine_refuses_is_no_bad_image(number, photos, tiny, monkeypatch):
    names = failing(monkeypatch, OSError(number, "refused"), lambda path: True)
    with pytest.raises(MachineError, match=r"cannot read the image .*: refused"):
        decode.examine(lambda: decode.open_file(photos / "cat/01.png"), "cat/01.png", config(tiny, photos).data)
    assert names == ["01.png"] * 4


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EACCES])
def test_what_is_not_there_is_a_bad_image(number, photos, tiny, monkeypatch):
    failing(monkeypatch, OSError(number, "no such thing"), lambda path: True)
    with pytest.raises(DataError):
        decode.examine(lambda: decode.open_file(photos / "cat/01.png"), "cat/01.png", config(tiny, photos).data)


def test_what_passes_is_waited_for(photos, tiny, monkeypatch):
    names: list[str] = []
    failing(
        monkeypatch, OSError(errno.EMFILE, "Too many open files"), lambda path: not names.append("") and len(names) < 3
    )
    image, _ = decode.examine(lambda: decode.open_file(photos / "cat/01.png"), "01.png", config(tiny, photos).data)
    assert image.size == (28, 28) and len(names) == 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.faults)])
def test_a_drive_that_goes_away_stops_the_run_with_its_steps_saved_and_it_ends_the_same(
    workers, photos, tiny, tmp_path, monkeypatch
):
    settings = config(tiny, photos, workers)
    run(settings, tmp_path / "straight")
    listener = Listener()
    gone: list[bool] = []
    with monkeypatch.context() as patch:
        failing(patch, OSError(errno.EIO, "Input/output error"), lambda path: bool(gone))
        patch.setattr("ditkit.data.batches.make_store", lambda *_: None)  # images are read again and again

        def listen(event) -> None:
            listener(event)
            if isinstance(event, Stepped) and event.step == 5:
                gone.append(True)

        if workers:  # which are other processes: the drive is gone from the beginning
            gone.append(True)
        with pytest.raises(MachineError, match="Input/output error"):
            train(settings, tmp_path / "run", listen, device="cpu")
    if not workers:
        assert RunFolder(tmp_path / "run").last_step() >= 5
    assert not (tmp_path / "run/bad_files.txt").exists()
    run(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "straight")


def test_what_was_replaced_stays_replaced_after_a_resume(photos, tiny, tmp_path):
    settings = config(tiny, photos)
    ends = []
    away = [photos / f"{'cat' if index % 2 else 'dog'}/{index:02d}.png" for index in (3, 8, 21)]
    contents = [path.read_bytes() for path in away]

    def put_back() -> None:
        for path, content in zip(away, contents, strict=True):
            path.write_bytes(content)

    for name, stop in (("straight", None), ("stopped", 6)):
        for path, content in zip(away, contents, strict=True):
            path.write_bytes(bytes(len(content)))  # a file that is being copied
        listener = Listener(stop)

        def listen(event, listener=listener) -> None:
            listener(event)
            if isinstance(event, Stepped) and event.step == 5:
                put_back()

        train(settings, tmp_path / name, listen, device="cpu", should_stop=listener.should_stop)
        if stop:
            run(settings, tmp_path / name)
        assert (tmp_path / name / "bad_files.txt").read_text(encoding="utf-8").count("\n") == 3
        ends.append(digest(tmp_path / name))
    assert ends[0] == ends[1]
