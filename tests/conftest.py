"""What the tests share: one thread, no network, and tiny configurations that train in a second."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import patience
import pytest

FAST = "not (faults or portability or docs or extras or slow)"  # what runs where neither -m nor a path says what to

# They fork, kill, mount and look into /proc; named by itself, a file of theirs is tried on other systems all the same.
collect_ignore = [] if sys.platform.startswith("linux") else ["faults"]

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("DITKIT_KERNELS", "off")  # auto would be what a busy machine measures
os.environ.setdefault("PYTHONUTF8", "1")  # of the processes that tests start, so that what they say can be read


def pytest_configure(config: pytest.Config) -> None:
    """Each process that runs tests computes with its share of the cores, whatever the load; before torch is loaded."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):  # else workers do
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if hasattr(config.option, "loadscopereorder"):  # files in their order: the short ones of visual/ come last
        config.option.loadscopereorder = False
    if not config.option.markexpr and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.option.markexpr = FAST


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """pytest-timeout's limit, but longer where the machine is busy."""
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None
    from pytest_timeout import timeout_sigalrm

    patience.call_after(settings.timeout, lambda: timeout_sigalrm(item, settings))
    item.cancel_timeout = patience.call_off  # type: ignore[attr-defined]
    return True


def pytest_report_header() -> list[str]:
    return ["tests/faults is left out: it needs Linux"] if collect_ignore else []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="fault tests at full size: hours instead of minutes")


@pytest.fixture
def long_mode(request: pytest.FixtureRequest) -> bool:
    """Whether the fault tests run at full size."""
    return request.config.getoption("--long")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Every test runs as on a machine that reaches nothing but itself."""
    real_connect, real_look_up = socket.socket.connect, socket.getaddrinfo

    def check(host: Any) -> None:
        try:
            local = host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise OSError(f"the tests have no network, not even to {host}")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])
        real_connect(self, address)

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        check(host.decode() if isinstance(host, bytes) else host)
        return real_look_up(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect)
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test or fixture touches the user's own caches, nor asks the hub, not even from another process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        for name in ("DITKIT_CACHE", "HF_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("caches") / name))
        yield


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, with an empty cache in it, and as if nobody had set anything."""
    monkeypatch.chdir(tmp_path)
    ours = ("DITKIT_RUNS", "DITKIT_DEBUG", "DITKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "FORCE_COLOR", "COLUMNS")
    for name in ours:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    if snapshot := sys.modules.get("ditkit.io.snapshot"):
        snapshot._resolved.clear()
    return tmp_path


@pytest.fixture
def links(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For a test that makes links, which Windows allows to some users only."""
    try:
        (tmp_path_factory.mktemp("links") / "link").symlink_to("target")
    except OSError:
        pytest.skip("this system makes no links")


@pytest.fixture
def cache(empty_folder: Path) -> Path:
    """Where ditkit's cache of a test will be."""
    return empty_folder / "cache"


@pytest.fixture(scope="session", autouse=True)
def digits_read_once() -> Iterator[None]:
    """The 60,000 digits inside the package are unpacked and summed once in a process, not once in a run."""
    from ditkit.data import mnist

    read, shipped = mnist._read_idx, mnist.SHIPPED
    remembered = functools.cache(read)

    def read_idx(name: str, dimensions: int, folder: Path | None) -> Any:
        return (remembered if folder is None and shipped == mnist.SHIPPED else read)(name, dimensions, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "_read_idx", read_idx)
        yield


@pytest.fixture
def tiny() -> Callable[..., object]:
    """`tiny(**sections)`: MNIST with a network of two narrow blocks, twelve steps of sixteen images."""
    from ditkit import recipes

    def build(**sections):
        base = {
            "data": {"validation": 24},
            "model": {"patch": 7, "width": 32, "depth": 2, "heads": 2},
            "optim": {"schedule": "constant", "warmup_steps": 2},
            "sample": {"steps": 2},
            "train": {
                "steps": 12,
                "batch_size": 16,
                "save_every": 5,
                "sample_every": 6,
                "validate_every": 4,
                "sample_columns": 1,
            },
        }
        for section, settings in sections.items():
            if isinstance(settings, dict):
                base[section] = {**base.get(section, {}), **settings}
            else:
                base[section] = settings
        return recipes.load("mnist", base)

    return build


@pytest.fixture
def shared_data() -> Path:
    """The folder with the real data sets, where DITKIT_TEST_DATA names one."""
    place = os.environ.get("DITKIT_TEST_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("needs the real CelebA images; set DITKIT_TEST_DATA to a folder that holds celeba/")
    return Path(place)
