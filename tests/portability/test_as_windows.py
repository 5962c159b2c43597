"""Command lines where everything that Windows lacks is missing: as far as Linux can show it, they work there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from patience import Limit, scaled
from PIL import Image

pytestmark = [
    pytest.mark.portability,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for open files as Linux shows them"),
]
HERE = Path(__file__).parent
TINY = (
    "--set model.patch=8 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.image_size=16 "
    "--set data.validation=2 --set sample.steps=2 --set train.sample_every=3 --set train.sample_columns=1 "
    "--batch-size 4 --device cpu"
)


def environment() -> dict[str, str]:
    """What the process finds."""
    added = {"PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))}
    return {**os.environ, **added, "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}


def started(lines: list[str], place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-X", "warn_default_encoding", str(HERE / "as_windows.py"), json.dumps(lines)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, stdin=pipe, stdout=pipe, stderr=pipe, env=environment())


def carried_out(lines: list[str], place: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command line, all in one process."""
    with started(lines, place) as process:
        streams = [stream.decode("utf-8", "replace") for stream in process.communicate(timeout=scaled(200))]
    parts = [re.split(r"^## (\S+)\n", stream, flags=re.MULTILINE) for stream in streams]
    assert len(parts[0]) == len(parts[1]) == 2 * len(lines) + 1, streams[1]
    return list(zip(map(int, parts[0][1::2]), parts[0][:-1:2], parts[1][:-1:2], strict=True))


def photos(place: Path) -> Path:
    for label in ("cat", "żółw 写し"):
        (place / label).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (16, 16), (40 * index, 0, 0)).save(place / label / f"{index}.png")
    return place


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    program = """
import as_windows, importlib, pkgutil, ditkit
for module in pkgutil.walk_packages(ditkit.__path__, "ditkit."):
    if not module.name.endswith("__main__") and not module.name.startswith("ditkit.jax"):  # may not be installed
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_run_is_trained_continued_drawn_from_and_looked_at(tmp_path: Path) -> None:
    photos(tmp_path / "my photos")
    train = f"train './my photos' --runs-dir 'my runs' --name pets --set data.workers=1 {TINY} --steps"
    lines = {
        "help": "--help",
        "train": f"{train} 4",
        "continue": f"{train} 6",
        "list": "list",
        "sample": "sample --model 'my runs/pets' --labels 'żółw 写し' cat --out drawn --device cpu",
        "again": "sample --model 'my runs/pets' --labels 'żółw 写し' --out drawn --force --yes --json --device cpu",
        "plot": "plot-loss 'my runs/pets'",
        "replot": "plot-loss 'my runs/pets' --force",
        "report": "report 'my runs/pets'",
        "gif": "make-gif 'my runs/pets'",
        "export": "export 'my runs/pets' --out pets.safetensors",
        "import": "import pets.safetensors --as other --runs-dir 'my runs' --yes",
        "show": "show 'my runs/pets'",
        "data": "data show './my photos'",
        "cache": "data remove --all --yes",
        "mistake": f"{train} 4 --set model.width=12",
    }
    ended = dict(zip(lines, carried_out(list(lines.values()), tmp_path), strict=True))
    codes = {name: code for name, (code, _, _) in ended.items()}
    assert codes == {**dict.fromkeys(lines, 0), "mistake": 2}, [ended[name] for name, code in codes.items() if code]
    assert "Traceback" not in str(ended)

    run = tmp_path / "my runs/pets"
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["step-0000004", "step-0000006"]
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name or ".trash" in path.name]
    assert [image["label"] for image in json.loads(ended["again"][1])["images"]] == ["żółw 写し"]
    assert "żółw 写し" in ended["show"][1] + ended["data"][1]
    rows = [json.loads(line) for line in (run / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [value for row in rows for name, value in row.items() if "per_second" in name]
    assert speeds and max(speeds) < 1e6, speeds
    hints = re.findall("`([^`]+)`", "".join(err for _, _, err in ended.values()))
    assert any('"my runs' in hint for hint in hints) and not any("'" in hint for hint in hints), hints


def test_a_second_training_of_a_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    train = f"train ./photos --name pets {TINY} --steps"
    rows, limit = tmp_path / "runs/pets/metrics.jsonl", Limit(60)
    with started([f"{train} 100000"], tmp_path) as first:
        while not (rows.exists() and rows.read_bytes()) and first.poll() is None and not limit.is_over():
            time.sleep(0.05)
        ((code, _, err),) = carried_out([f"{train} 100000"], tmp_path)
        first.kill()
    assert (code, "Traceback" in err) == (7, False), err
    assert f"in use by pid {first.pid} on " in err
    assert carried_out([f"{train} 3"], tmp_path)[0][0] == 0


def test_every_test_is_collected(tmp_path: Path) -> None:
    words = ["-m", "pytest", "-p", "collected_as_windows", "-p", "no:cacheprovider", "--collect-only", "-qq", "-m", ""]
    done: Any = subprocess.run(
        [sys.executable, *words, str(HERE.parent)],
        cwd=HERE.parents[1],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=scaled(120),
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
