"""Real command lines where the machine is odd: no locale, no home, no network, closed streams, read-only folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import refused, said, write_run
from patience import scaled
from PIL import Image

TINY = (
    "--set model.patch=8 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.image_size=16 "
    "--set data.validation=2 --set sample.steps=2 --set train.sample_every=3 --set train.sample_columns=1 "
    "--batch-size 4 --device cpu"
)

# Runs before anything else in the child: no socket at all, a clock that goes back an hour whenever it is read, and
# an error where ditkit opens a text file without saying how it is encoded.
SITE = """
import socket, time, warnings

class NoSocket(socket.socket):
    def __init__(self, *_, **__):
        raise OSError("no network here")

now, reads = time.time, iter(range(1_000_000))
socket.socket = NoSocket
time.time = lambda: now() - 3600 * next(reads)
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module="ditkit")
"""


def _name(text: str) -> str:
    """As Python spells it for this system, should the tests themselves run under LC_ALL=C."""
    return os.fsdecode(text.encode())


def _images(place: Path) -> None:
    for label in ("\u00e9", "\u7a7a \u732b"):
        (place / _name(label)).mkdir(parents=True)
        for index in range(6):
            image = Image.new("RGB", (16, 16), (40 * index, 0, 0))
            image.save(place / _name(label) / _name(f"\u65e5 {index}.png"))


def _environment(site: Path, **more: str) -> dict[str, str]:
    """What a child finds: nearly nothing, and a locale that knows no letter beyond ASCII."""
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    inherited = os.environ.get("PYTHONPATH", "")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(filter(None, (str(site), inherited))),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONUNBUFFERED": "",
        "TERM": "dumb",
        "COLUMNS": "20",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def _ran(words: list[str], place: Path, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": scaled(120), **options}
    return subprocess.run([sys.executable, "-m", "ditkit", *map(_name, words)], cwd=place, **options)


def _litter(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if ".tmp" in path.name or ".trash" in path.name]


@pytest.mark.faults
def test_no_locale_no_home_no_network_and_a_clock_that_goes_back(tmp_path: Path) -> None:
    place = tmp_path / _name("t \u00e9 \u7a7a \u65e5\u672c")
    _images(place / _name("Bilder \u00fc"))
    environment = _environment(tmp_path / "site")
    trained = _ran(["train", "./Bilder \u00fc", "--steps", "3", *TINY.split()], place, env=environment)
    assert (trained.returncode, trained.stdout) == (0, b""), trained.stderr
    run = place / "runs/bilder-u"
    assert (run / "checkpoints/step-0000003/manifest.json").is_file() and not _litter(place)
    rows = [json.loads(line) for line in (run / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(value >= 0 for row in rows for value in row.values() if isinstance(value, (int, float)))
    said_lines = trained.stderr.decode("ascii").splitlines()
    assert any("2 labels" in line for line in said_lines), said_lines
    words = (
        "training",
        "kernels in C: ",
        "no kernels in C: ",
        "computing with",
        "step",
        "done:",
        "next:",
        "warning: the learning rate",
    )
    assert all(line.startswith(words) for line in said_lines), said_lines

    words = ["sample", "--labels", "\u7a7a \u732b", "\u00e9*2", "--out", "Ausgabe \u00fc", "--device", "cpu"]
    drawn = _ran(words, place, env=environment)
    assert (drawn.returncode, drawn.stderr) == (0, b"")
    files = os.fsdecode(drawn.stdout).splitlines()
    assert [Path(file).name for file in files] == ["000-label.png", "001-e.png", "002-e.png", "grid.png"]
    assert all((place / file).is_file() for file in files) and not _litter(place)
    with Image.open(place / files[0]) as picture:
        assert picture.info["label"] == "\u7a7a \u732b"


@pytest.mark.faults
def test_training_goes_on_when_every_stream_is_closed(tmp_path: Path) -> None:
    _images(tmp_path / "photos")
    command = f"'{sys.executable}' -m ditkit train ./photos --steps 3 {TINY} <&- >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, timeout=scaled(120), env={**os.environ, "DITKIT_RUNS": "runs"}
    )
    assert done.returncode == 0
    assert (tmp_path / "runs/photos/checkpoints/step-0000003/manifest.json").is_file() and not _litter(tmp_path)
    metrics = (tmp_path / "runs/photos/metrics.jsonl").read_text(encoding="utf-8")
    assert all(json.loads(line)["step"] >= 0 for line in metrics.splitlines())  # nothing else was printed into it


def test_no_file_gets_the_number_of_a_stream_that_was_closed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from ditkit.io.terminal import open_streams; open_streams();"
        "sys.exit(os.open('new', os.O_CREAT | os.O_WRONLY) <= 2)"
    )
    for closed in ("<&- >&- 2>&-", ">&-", "2>&-"):
        command = f"'{sys.executable}' -c \"{program}\" {closed}"
        assert subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=scaled(60)).returncode == 0, closed


@pytest.mark.faults
def test_training_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    _images(tmp_path / "photos")
    command = [sys.executable, "-m", "ditkit", "train", "./photos", "--steps", "3", *TINY.split()]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stderr
        process.stderr.close()
        assert process.wait(timeout=scaled(120)) == 0
    assert (tmp_path / "runs/photos/checkpoints/step-0000003/manifest.json").is_file() and not _litter(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("redirect", "code", "message"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2>&-", 0, ""),
        ("> /dev/full", 6, "error: no space left on device\n"),
        ("| true", 141, ""),
    ],
)
@pytest.mark.parametrize("words", ["list", "sample --help"])
def test_what_prints_survives_a_stream_that_is_closed_or_full(
    redirect: str, code: int, message: str, words: str, tmp_path: Path
) -> None:
    if "full" in redirect and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f"'{sys.executable}' -m ditkit {words} {redirect}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message) and len(done.stderr.splitlines()) == (2 if message else 0), done.stderr


def test_a_mistake_without_a_home_in_a_narrow_dumb_terminal_is_two_lines(tmp_path: Path) -> None:
    environment = _environment(tmp_path / "site")
    for words, code in (
        (["train", "./Bilder \u00fc"], 2),
        (["train", "~nobody-of-this-name/x"], 2),
        (["plot-loss"], 2),
    ):
        done = _ran(words, tmp_path, env=environment)
        assert (done.returncode, done.stdout) == (code, b"")
        assert [line.partition(b":")[0] for line in done.stderr.splitlines()] == [b"error", b"hint"]
        assert b"\\udc" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.faults
def test_a_plot_without_a_home_is_drawn_in_silence(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    done = _ran(["plot-loss"], tmp_path, env=_environment(tmp_path / "site", HOME="/dev/null/nobody"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"runs/pets/loss.png\n", b"")
    assert (tmp_path / "runs/pets/loss.png").is_file() and not _litter(tmp_path)


def test_a_tilde_is_the_home_wherever_a_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    _images(home / "photos")
    (home / "mine.toml").write_text("seed = 7\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    for line in (
        f"train ~/photos --runs-dir=~/runs --config ~/mine.toml --steps 2 --quiet {TINY}",
        "sample --model ~/runs/photos --out=~/drawn --quiet --device cpu",
        "sample --model ~/runs/photos/checkpoints/step-0000002/ema.safetensors --out=~/again --quiet --device cpu",
        "plot-loss ~/runs/photos --out=~/loss.png",
        "make-gif ~/runs/photos --out=~/progress.gif",
        "show ~/runs/photos",
    ):
        code, _, err = said(capsys, line)
        assert (code, err) == (0, ""), line
    monkeypatch.setenv("DITKIT_RUNS", "~/runs")
    assert said(capsys, "show photos")[0] == 0
    made = {"photos", "mine.toml", "runs", "drawn", "again", "loss.png", "progress.gif"}
    assert {path.name for path in home.iterdir() if not path.name.startswith(".")} == made
    assert not any("~" in path.name for path in tmp_path.rglob("*")) and not _litter(tmp_path)


# --- read-only folders


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """The folder as on a read-only file system; root does not care for permissions, so it needs a mount."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    bind = ["mount", "--bind", str(folder), str(folder)]
    read_only = ["mount", "-o", "remount,ro,bind", str(folder)]
    try:
        if subprocess.run(bind, capture_output=True).returncode:
            pytest.skip("root may write everywhere, and this machine mounts nothing")
    except FileNotFoundError:
        pytest.skip("root may write everywhere, and this machine has no mount")
    try:
        if subprocess.run(read_only, capture_output=True).returncode:
            pytest.skip("this machine mounts nothing read-only")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # what drew still holds its checkpoint


def test_a_read_only_folder_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "fixed"
    write_run(place / "runs")
    _images(tmp_path / "photos")
    monkeypatch.setattr("ditkit.sampling.request.draw", lambda *_, **__: pytest.fail("it drew"))
    monkeypatch.setattr("ditkit.estimation.lr_finder.find_lr", lambda *_, **__: pytest.fail("it measured"))
    monkeypatch.setattr("ditkit.training.loop.train", lambda *_, **__: pytest.fail("it trained"))
    with _read_only(place):
        for line in (
            f"train ./photos --runs-dir fixed/runs --quiet {TINY}",
            "sample --model fixed/runs/pets --out fixed/drawn",
            "lr-find mnist --out fixed/found.png",
            "plot-loss fixed/runs/pets",
            "make-gif denoise fixed/runs/pets",
            "make-gif denoise fixed/runs/pets --out fixed/a.gif",
        ):
            refused(capsys, line, 6, "fixed")
        assert said(capsys, "show fixed/runs/pets")[0] == 0
    assert not _litter(tmp_path)


def test_a_read_only_cache_is_reported_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    Path("photos/a").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save("photos/a/1.png")
    shutil.make_archive("photos", "gztar", "photos")
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("DITKIT_CACHE", "cache")
    with _read_only(tmp_path / "cache"):
        code, out, err = said(capsys, f"train photos.tar.gz --steps 1 {TINY}")
    assert (code, out, err.count("error:")) == (6, "", 1)
    assert "cannot write to the cache" in err and "DITKIT_CACHE" in err
    assert not (tmp_path / "runs").exists() and not _litter(tmp_path)


# --- the suite itself


def test_the_tests_reach_nothing_but_this_machine() -> None:
    for address in (("192.0.2.1", 9), ("example.org", 80), ("2001:db8::1", 80)):
        with pytest.raises(OSError, match="the tests have no network"):
            socket.create_connection(address, timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
