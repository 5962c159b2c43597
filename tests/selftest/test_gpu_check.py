"""`benchmarks/gpu_check.py` runs its parts apart from each other, goes on where it was, and works on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from patience import scaled

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Parts that take no time, in the place of the real ones.
STAND_IN = """
import os, time

def work_of(name, device, folder):
    def work(note):
        print("this is no JSON")
        note(first=1, path=folder)
        if name == "eager":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if name == "memory":
            os._exit(9)
        if name == "room":
            time.sleep(60)
        note(second=[2, device])
    return work
"""
RUN = """
import sys
sys.path[:0] = sys.argv[1:3]
import gpu_check
gpu_check.PARTS = tuple((name, 1 if name == "room" else 20, compiles) for name, _, compiles in gpu_check.PARTS)
sys.exit(gpu_check.main(sys.argv[3:]))
"""


def check(folder: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and lines of a run with parts that take no time."""
    (folder / "gpu_check_parts.py").write_text(STAND_IN, encoding="utf-8")
    command = [sys.executable, "-c", RUN, str(folder), str(BENCHMARKS), "--device", "cpu", "--out", "results", *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=scaled(60))
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_part_that_fails_dies_or_hangs_does_not_end_the_rest(tmp_path: Path) -> None:
    code, rows = check(tmp_path, "--quick")
    assert code == 1
    status = {row["part"]: row["status"] for row in rows}
    assert list(status)[:4] == ["doctor", "eager", "memory", "room"] and "compiled" not in status
    failed = {name: status.pop(name) for name in ("eager", "memory", "room")}
    assert failed == {"eager": "failed", "memory": "failed", "room": "out of time"}
    assert set(status.values()) == {"done"}
    by_name = {row["part"]: row for row in rows}
    assert all(row["first"] == 1 for row in rows) and by_name["doctor"]["second"] == [2, "cpu"]
    assert by_name["eager"]["error"] == "RuntimeError: CUDA error: unspecified launch failure"
    assert by_name["memory"]["exit"] == 9
    written = (tmp_path / "results").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == rows


def test_parts_that_are_done_are_not_run_again(tmp_path: Path) -> None:
    check(tmp_path, "--only", "doctor", "eager")
    with (tmp_path / "results").open("a", encoding="utf-8") as file:
        file.write('{"part": "samplers", "sta\n')  # it was cut off
    _, rows = check(tmp_path, "--only", "doctor", "eager", "samplers")
    assert [row["part"] for row in rows] == ["eager", "samplers"]
    _, rows = check(tmp_path, "--only", "doctor", "samplers", "--again")
    assert [row["part"] for row in rows] == ["doctor", "samplers"]


def test_when_time_is_over_nothing_more_is_begun(tmp_path: Path) -> None:
    code, rows = check(tmp_path, "--only", "doctor", "--seconds", "1")
    assert code == 1 and [row["status"] for row in rows] == ["not begun"]


def test_what_is_missing_comes_from_a_folder_of_wheels(tmp_path: Path) -> None:
    about = {"METADATA": "Metadata-Version: 2.1\nName: madeup\nVersion: 1.0\n", "RECORD": ""}
    about["WHEEL"] = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "madeup-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("madeup.py", "VALUE = 7")
        for name, text in about.items():
            wheel.writestr(f"madeup-1.0.dist-info/{name}", text)
    program = "import gpu_check, sys; from pathlib import Path; gpu_check.NEEDED = ('madeup',);"
    program += "gpu_check.make_importable(Path(sys.argv[1]) if sys.argv[1:] else None, Path('site'));"
    program += "import madeup; print(madeup.VALUE)"
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    for words, code, said in ((["wheels"], 0, "7\n"), ([], 1, "")):
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=scaled(60))
        assert (done.returncode, done.stdout) == (code, said), done.stderr
    assert "missing: madeup; give a folder of their wheels with --wheels" in done.stderr


@pytest.mark.slow
def test_the_small_version_works_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--quick", "--out", "results"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=scaled(280))
    rows = {row["part"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    assert rows["room"]["parts"] == [1, 2] and max(rows["room"]["off"].values()) < 1e-3 and rows["room"]["grid"]
    assert rows["exact"]["resumed"].startswith("holds") and rows["exact"]["killed"].startswith("holds")
    assert rows["resident"]["pixels_equal"] and rows["resident"]["latents_equal"]
    assert (
        len(rows["samplers"]) >= 10
        and rows["exchange"]["off"] == {"loss": 0, "norm": 0}
        and rows["exchange"]["objects"]
    )
    assert str(tmp_path) not in json.dumps(rows["doctor"]["machine"])
