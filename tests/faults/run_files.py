"""A run's folder as somebody may have sent it: every file damaged, replaced or hostile; every command that reads it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import harness
import mutations
from patience import call_after, call_off

PATIENCE = 30  # seconds for one command
ONCE_BAD = (160, 256, 1008)  # cases that found something; the short run has them, too
READERS = {
    "config.toml": "show list report sample train",
    "metrics.jsonl": "report plot-loss compare push train list",
    "timing.jsonl": "report compare train",
    "incidents.jsonl": "report train",
    "evaluation.json": "report compare",
    "progress.gif": "report",
    "samples/step-0000002.png": "report make-gif train",
    "samples/step-0000004.png": "report make-gif push train",
    "bad_files.txt": "train",
    "imported.json": "list sample train push",
}
PAIRS = [(file, command) for file, commands in READERS.items() for command in commands.split()]
COMMANDS: dict[str, list[str]] = {
    "report": ["report", "RUN", "--out", "OUT.html", "--force"],
    "plot-loss": ["plot-loss", "RUN", "--out", "OUT.png", "--force"],
    "make-gif": ["make-gif", "train", "RUN", "--out", "OUT.gif", "--force"],
    "compare": ["compare", "RUN", "OTHER", "--out", "OUT", "--force"],
    "push": ["hub", "push", "RUN", "somebody/model", "--dry-run", "--data-licence", "mit"],
    "sample": ["sample", "--model", "RUN", "--out", "OUT", "--force", "--steps", "1"],
    "show": ["show", "RUN"],
    "list": ["list"],
    "train": ["train", "RUN", "--steps", "5", "--quiet", "--device", "cpu"],
}
EVALUATION = [{"step": 4, "metrics": {"frechet": 2.5, "kid": 0.1}, "drawn": {"samples": 10}, "features": {"name": "x"}}]
GHOSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{} loop\n"


def _pipe(path: Path, *_: Any) -> None:
    os.mkfifo(path)


def _folder(path: Path, *_: Any) -> None:
    path.mkdir()


def _endless(path: Path, *_: Any) -> None:
    path.symlink_to("/dev/zero")


def _nowhere(path: Path, *_: Any) -> None:
    path.symlink_to("/nowhere")


def _program(path: Path, *_: Any) -> None:
    path.write_bytes(GHOSTSCRIPT)


def _bomb(path: Path, *_: Any) -> None:
    """A PNG of a few kB that says it has 60,000 × 60,000 pixels."""
    header = (60_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    parts = (len(data).to_bytes(4, "big") + n + data + zlib.crc32(n + data).to_bytes(4, "big") for n, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _text_for_numbers(path: Path, source: Random, _: bytes) -> None:
    """Rows and records whose values are of other types."""
    values = [None, "text", [1], {"a": 1}, True, 10**17, -1, 1e308]
    names = ("loss", "validation_loss", "kid", "seconds", "images_per_second", "lr", "text", "memory_mb")
    rows = [
        {"step": step, **{name: source.choice(values) for name in names}} for step in (1, 2, 4, source.choice(values))
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _records_of_other_types(path: Path, source: Random, _: bytes) -> None:
    path.write_bytes(json.dumps(mutations.tree_of(source, EVALUATION)).encode("utf-8", "surrogatepass"))


def _damaged(path: Path, source: Random, before: bytes) -> None:
    path.write_bytes(mutations.bytes_of(source, before))


DAMAGES: tuple[Callable[[Path, Random, bytes], None], ...] = (
    _damaged, _pipe, _program, _text_for_numbers, _bomb, _records_of_other_types, _endless, _folder, _nowhere,
)  # fmt: skip


def run_files(folder: str, cases: int) -> dict[str, Any]:
    """That many damaged runs, each read by a command; every pair of file and command comes in turn."""
    place = Path(folder)
    digits = harness.write_digits(place / "digits")
    for name in ("whole", "other"):
        settings = {"train.steps": 4, "train.save_every": 2, "train.sample_every": 2, "train.log_every": 1}
        code = harness.finish(
            harness.fork(harness.command(harness.words(place / name, digits, settings)), place / "log")
        )
        assert code == 0, (place / "log").read_text(encoding="utf-8")
    whole = place / "whole"
    (whole / "evaluation.json").write_text(json.dumps(EVALUATION), encoding="utf-8")
    shutil.copy(whole / "samples/step-0000004.png", whole / "progress.gif")

    def some(part: int, parts: int) -> list[Any]:
        numbers = sorted({*range(cases), *ONCE_BAD})
        return [_case(number, place / f"part-{part}", place) for number in numbers[part::parts]]

    results = harness.side_by_side(some, place / "parts")
    bad = [f"case {number}: {what}: {outcome}" for number, what, outcome in results if outcome != "ok"]
    return {"cases": len(results), "bad": len(bad), "why": bad}


def _case(number: int, place: Path, runs: Path) -> tuple[int, str, str]:
    from ditkit.cli.app import main

    source = Random(f"run files {number}")
    file, name = PAIRS[number % len(PAIRS)]
    run = place / "run"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(runs / "whole", run)
    shutil.copytree(runs / "other", place / "other")
    path = run / file
    before = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    damage = DAMAGES[(number + number // len(PAIRS)) % len(DAMAGES)]
    damage(path, source, before)
    names = {"RUN": str(run), "OTHER": str(place / "other"), "OUT": str(place / "out")}
    line = [names.get(word, word.replace("OUT.", f"{place}/out.")) for word in COMMANDS[name]]
    if name in ("report", "plot-loss", "compare", "sample", "train"):
        line += ["--runs-dir", str(place)]
    what = f"{file} after {damage.__name__}, {' '.join(COMMANDS[name])}"
    stdout, stderr = io.StringIO(), io.StringIO()
    call_after(PATIENCE, _too_long)
    try:
        os.chdir(place)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main(line)
    except BaseException:
        return number, what, traceback.format_exc()[-1500:]
    finally:
        call_off()
    if code not in (0, 2, 3, 4, 6) or "internal error" in stderr.getvalue():
        return number, what, f"exit {code}: {stderr.getvalue()[-1500:]}"
    if "\x1b" in stdout.getvalue():
        return number, what, "an escape sequence on stdout"
    if subprocess.run(["pgrep", "-x", "gs"], capture_output=True, check=False).returncode == 0:
        return number, what, "Ghostscript was started"
    return number, what, "ok"


def _too_long() -> None:
    raise TimeoutError("it hangs")
