"""Notes between processes: waiting without a limit, one that fails is heard once, old notes mislead nobody."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed
from patience import scaled
from platforms import as_windows

from ditkit.cli import app
from ditkit.errors import DataError, MachineError, PeerError
from ditkit.runtime import distributed, launch, watchdog
from ditkit.runtime.watchdog import Watchdog


@pytest.fixture
def two() -> tuple[Watchdog, Watchdog]:
    store = torch.distributed.HashStore()
    return Watchdog(store, 0, 2), Watchdog(store, 1, 2)


@pytest.fixture
def exits(monkeypatch) -> list[int]:
    """The codes with which the watch would have ended this process; nothing is waited for long."""
    ended: list[int] = []
    for name, value in (("GRACE", 0.01), ("_TICK", 0.001), ("_SILENCE", 100), ("_WAIT_FOR_PEERS", 0)):
        monkeypatch.setattr(watchdog, name, value)
    monkeypatch.setattr(watchdog.os, "_exit", ended.append)
    return ended


@pytest.mark.parametrize("chosen", [None, "1"])
def test_on_windows_the_store_does_without_what_torch_lacks_there(chosen, monkeypatch) -> None:
    as_windows(monkeypatch, watchdog)
    monkeypatch.delenv("USE_LIBUV", raising=False)
    if chosen:
        monkeypatch.setenv("USE_LIBUV", chosen)
    asked = []

    def meet(*_where, **_how):
        asked.append(os.environ.get("USE_LIBUV"))
        raise RuntimeError("nobody is there")

    monkeypatch.setattr(watchdog, "rendezvous", meet)
    with pytest.raises(MachineError):
        watchdog.open_watchdog(0, 2)
    assert asked == [chosen or "0"]


def test_a_meeting_waits_for_the_last_and_ends_for_all(two) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(two[0].barrier)
        time.sleep(scaled(0.3))
        assert not first.done()
        two[1].barrier()
        first.result(scaled(5))


def test_the_first_that_fails_speaks_and_the_others_end_silently_with_its_code(two) -> None:
    error = DataError("cat.png cannot be read", "replace it")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(two[0].barrier)
        assert two[1].report_failure(error) is error
        with pytest.raises(PeerError) as met:
            waiting.result(scaled(5))
    for other in (met.value, ValueError("a bug"), RuntimeError("[gloo/pair.cc:1] Connection closed by peer")):
        ends = two[0].report_failure(other)
        assert isinstance(ends, PeerError) and ends.exit_code == DataError.exit_code


def test_a_connection_that_breaks_without_a_word_is_reported_as_such(two) -> None:
    torn = RuntimeError("[/x/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typically caused")
    ends = two[1].report_failure(torn)
    assert isinstance(ends, MachineError)
    assert ends.message.endswith("(Connection closed by peer [127.0.0.1]:1)")


def test_a_process_that_hangs_is_ended_after_another_has_failed(two, exits) -> None:
    with two[0].watched():
        two[1].report_failure(DataError("gone", None))
        time.sleep(scaled(0.3))
    assert exits == [DataError.exit_code]


def test_a_process_that_saves_is_left_alone_until_it_has(two, exits) -> None:
    with two[0].watched():
        with two[0].uninterruptible():
            two[1].report_failure(DataError("gone", None))
            time.sleep(scaled(0.3))
            assert not exits
        time.sleep(scaled(0.3))
    assert exits == [DataError.exit_code]


def test_a_process_that_saves_for_ever_is_ended_too(two, exits, monkeypatch) -> None:
    """It waits for a GPU that waits for a process which is gone."""
    monkeypatch.setattr(watchdog, "_SAVING", 0.05)
    with two[0].watched(), two[0].uninterruptible():
        two[1].report_failure(DataError("gone", None))
        time.sleep(scaled(0.4))
        assert exits == [DataError.exit_code]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
            True,
        ),
        ("ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.", True),
        ("NCCL communicator was aborted on rank 1.", True),
        ("ncclUnhandledCudaError: Call to CUDA function failed.", False),
        ("ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nDuplicate GPU detected", False),
    ],
)
def test_only_errors_of_nccl_that_may_come_of_another_process_mean_that_it_is_lost(text: str, lost: bool) -> None:
    error = torch.distributed.DistBackendError(f"NCCL error in: ProcessGroupNCCL.cpp:3384, NCCL version 2.27.5\n{text}")
    assert watchdog.is_lost(error) is lost


@pytest.mark.parametrize(("nccl", "backend"), [(True, "nccl"), (False, "gloo")])
def test_gpus_exchange_by_gloo_where_torch_has_no_nccl(nccl, backend, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **_: asked.append(name))
    distributed._connect(torch.device("cuda:0"), 0, 2, None)
    distributed._connect(torch.device("cpu"), 0, 2, None)
    assert asked == [backend, "gloo"]


def test_a_process_that_hangs_after_another_died_says_so_to_all_and_once(two, exits, capfd) -> None:
    with two[0].watched():
        time.sleep(scaled(0.5))
    assert exits == [MachineError.exit_code]
    assert capfd.readouterr().err.count("error: another process of this run has ended") == 1
    ends = two[1].report_failure(MachineError("another process of this run has ended"))
    assert isinstance(ends, PeerError) and ends.exit_code == MachineError.exit_code


def test_when_the_notes_are_gone_one_process_of_each_machine_speaks(two, monkeypatch) -> None:
    class Gone:
        def compare_set(self, *_: str) -> bytes:
            raise RuntimeError("recvValue failed")

    error = MachineError("another process of this run has ended")
    for rank, local, speaks in ((0, "0", True), (1, "1", True), (8, "0", True), (9, "1", False)):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert (Watchdog(Gone(), rank, 16).report_failure(error) is error) == speaks


def test_a_process_without_a_sign_of_life_counts_as_dead(two, monkeypatch) -> None:
    for name, value in (("_TICK", 0.001), ("_SILENCE", 20)):
        monkeypatch.setattr(watchdog, name, value)
    monkeypatch.setattr(watchdog, "_WAIT_FOR_PEERS", 0)
    with two[0].watched(), pytest.raises(MachineError, match="process 1 gives no sign of life"):
        two[0].barrier()


def test_a_launch_agrees_on_a_name_whatever_an_earlier_one_has_left(monkeypatch) -> None:
    store = torch.distributed.HashStore()
    names = set()
    for _ in range(3):
        store.set("hello/2", "a process that died before it was answered")
        with ThreadPoolExecutor() as pool:
            late = [pool.submit(watchdog._agree, store, rank, 3) for rank in (1, 0, 2)]
            names.add(frozenset(one.result(scaled(10)) for one in late))
    assert [len(one) for one in names] == [1, 1, 1]


def test_what_all_processes_of_a_machine_do_wrong_its_first_one_says(capsys, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(launch, "_joined", False)
    said, threads = [], threading.active_count()
    for local in "01":
        monkeypatch.setenv("LOCAL_RANK", local)
        assert app.main(["train", "mnist", "--stepz", "3"]) == 2
        said.append(capsys.readouterr().err.count("error:"))
    assert said == [1, 0]
    assert threading.active_count() == threads
