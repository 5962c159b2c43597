"""Worker processes that are not forks: spawn on macOS and Windows, forkserver on Linux from Python 3.14 on."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from patience import scaled
from training_runs import digest, run

from ditkit.registry import DATASETS

pytestmark = [
    pytest.mark.portability,
    pytest.mark.skipif(
        "forkserver" not in multiprocessing.get_all_start_methods(), reason="this system has only spawn"
    ),
]
PLUG_IN = '''"""Grey squares of a plug-in."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Squares:
    size: int
    channels: int
    labels: tuple = ("dark", "light")
    fingerprint: str = "squares"

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return np.full((self.size, self.size, self.channels), 6 * index, dtype=np.uint8), index // 20


def dataset(config, split):
    return Squares(config.image_size[0], config.channels)
'''


@pytest.fixture(params=["spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    """How processes start unless somebody says how."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)
    forkserver._forkserver._stop()


class Squares:
    """The user's own images, in Python."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((28, 28), 6 * index, dtype=np.uint8), index // 20


def same(first: Path, second: Path) -> bool:
    """Whether two runs ended alike; the weights' files also say how many processes read the images."""
    one, other = (digest(folder) for folder in (first, second))
    return all(one[name] == other[name] for name in ("optimizer.safetensors", "metrics.jsonl"))


def test_data_workers_give_the_run_that_a_thread_gives(method: str, tiny: Callable, tmp_path: Path) -> None:
    run(tiny(train={"steps": 4}), tmp_path / "thread")
    run(tiny(train={"steps": 4}, data={"workers": 2}), tmp_path / "processes")
    assert same(tmp_path / "processes", tmp_path / "thread")


def test_images_of_a_plug_in_and_of_the_users_own_reach_them(method: str, tiny: Callable, tmp_path: Path) -> None:
    file = tmp_path / "grey_squares.py"
    file.write_text(PLUG_IN, encoding="utf-8")
    name = DATASETS.add_file(file)
    for place, data in (("plug-in", {"name": name}), ("python", {})):
        for workers in (0, 1):
            config = tiny(train={"steps": 2}, data={"workers": workers, **data})
            given = {} if data else {"data": Squares()}
            run(config, tmp_path / f"{place}-{workers}", **given)
        assert same(tmp_path / f"{place}-1", tmp_path / f"{place}-0"), place


def test_processes_that_a_launcher_starts_train_one_run(method: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = "train mnist --name both --steps 3 --device cpu --batch-size 8 --set model.patch=14 --set model.width=16"
    line += " --set model.depth=1 --set model.heads=2 --set data.workers=1 --set data.validation=8 --set sample.steps=1"
    program = str(Path(__file__).with_name("with_start_method.py"))
    started = []
    for rank in range(2):
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in named.items()}, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, program, method, *line.split()]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE))
    said = [process.communicate(timeout=scaled(120))[1].decode("utf-8") for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "Traceback" not in str(said)
    assert (tmp_path / "runs/both/checkpoints/step-0000003/manifest.json").is_file()
