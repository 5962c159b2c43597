"""Snapshots of repositories on a hub that runs on loopback: whole, checked, resumed, offline; and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hub_server import Faults, Hub, commit_of, forget, hub
from huggingface_hub import hf_hub_download, snapshot_download

from ditkit.errors import MachineError, UsageError
from ditkit.io import paths
from ditkit.io import snapshot as snapshots
from ditkit.io.cache import entries, remove
from ditkit.io.download import Patience
from ditkit.io.progress import reporting_to
from ditkit.io.snapshot import NOTE, files_of, snapshot, source_of

REPO = "someone/faces"
BIG = random.Random(0).randbytes(300_000)
FILES = {
    "README.md": b"<!-- faces -->\n",
    "data/train-0.parquet": BIG,
    "data/train-1.parquet": BIG[::-1],
    "data/test-0.parquet": b"test" * 1000,
    "small.json": b"{}",
    "empty": b"",
}
HASTY = Patience(timeout=10, delays=(0.01, 0.01, 0.01))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub, too, waits before it tries again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub({("dataset", REPO): FILES, ("model", "someone/weights"): {"config.json": b"{}", "w.bin": BIG}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def note_folder(cache: Path) -> Path:
    return cache / "hub" / f"someone--faces-{commit_of(FILES)[:12]}"


def train(path: str) -> bool:
    return "train" in path


def files_in(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != NOTE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_only_wanted_files_come_and_a_second_time_nothing_is_asked_of_a_known_commit(server: Hub, cache: Path) -> None:
    folder = snapshot(REPO, wanted=train)
    assert folder == cache.parent / f"hf/hub/datasets--someone--faces/snapshots/{commit_of(FILES)}"
    assert json.loads((note_folder(cache) / NOTE).read_bytes())["commit"] == commit_of(FILES)
    assert files_in(folder) == {path: content for path, content in FILES.items() if train(path)}
    before = server.asked.total()
    assert snapshot(REPO, wanted=train) == folder and snapshot(REPO, revision=commit_of(FILES), wanted=train) == folder
    assert server.asked.total() == before


def test_without_links_files_are_copies_and_a_wrong_one_is_fetched_again_without_a_warning(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def symlink(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", symlink)
    monkeypatch.setattr("huggingface_hub.file_download._are_symlinks_supported_in_dir", {})
    folder = snapshot(REPO, wanted=train)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    asked = server.asked.total()
    assert snapshot(REPO, wanted=train) == folder and server.asked.total() == asked
    (folder / "data/train-1.parquet").write_bytes(bytes(len(BIG)))
    forget()
    wanted = {path: content for path, content in FILES.items() if train(path)}
    assert files_in(snapshot(REPO, wanted=train)) == wanted


def test_small_empty_and_odd_files_come_too(server: Hub) -> None:
    folder = snapshot(REPO, wanted=lambda path: "train" not in path)
    assert files_in(folder) == {path: content for path, content in FILES.items() if not train(path)}
    assert set(files_of(REPO)) == set(FILES)


def test_what_another_tool_has_fetched_is_checked_and_not_fetched_again(server: Hub, tmp_path: Path) -> None:
    shared = tmp_path / "hf/hub"
    whole = snapshot_download(REPO, repo_type="dataset", cache_dir=shared, endpoint=server.endpoint)
    assert files_in(Path(whole)) == FILES
    sent = server.sent.total()
    folder = snapshot(REPO, wanted=lambda path: True)
    assert folder == Path(whole) and server.sent.total() == sent
    damaged = folder / "data/train-1.parquet"
    damaged.write_bytes(bytes(len(BIG)))
    shutil.rmtree(tmp_path / "cache")
    forget()
    assert files_in(snapshot(REPO, wanted=train))["data/train-1.parquet"] == BIG[::-1]
    assert server.sent.total() == sent + len(BIG)


def test_what_ditkit_has_fetched_other_tools_find_without_a_network(server: Hub, tmp_path: Path) -> None:
    folder = snapshot(REPO, wanted=train)
    server.faults.down = True
    found = hf_hub_download(
        REPO, "data/train-0.parquet", repo_type="dataset", cache_dir=tmp_path / "hf/hub", local_files_only=True
    )
    assert Path(found) == folder / "data/train-0.parquet"


def test_a_model_that_only_another_tool_has_fetched_serves_offline_and_a_data_set_does_not(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "hf/hub"
    hf_hub_download("someone/weights", "w.bin", cache_dir=shared, endpoint=server.endpoint)
    hf_hub_download(REPO, "data/train-0.parquet", repo_type="dataset", cache_dir=shared, endpoint=server.endpoint)
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    assert files_in(snapshot("someone/weights", kind="model", wanted=lambda path: True)) == {"w.bin": BIG}
    with pytest.raises(MachineError, match="is not looked up, because DITKIT_OFFLINE is set"):
        snapshot(REPO, wanted=train)


def test_files_that_an_earlier_ditkit_has_fetched_are_used_where_they_are(server: Hub, cache: Path) -> None:
    files_of(REPO)
    for path in filter(train, FILES):
        (note_folder(cache) / path).parent.mkdir(exist_ok=True)
        (note_folder(cache) / path).write_bytes(FILES[path])
    assert snapshot(REPO, wanted=train) == note_folder(cache) and not server.sent
    assert source_of(note_folder(cache)) == f"hf://{REPO}@{commit_of(FILES)[:12]}"


def test_a_model_repository_is_the_same(server: Hub) -> None:
    folder = snapshot("someone/weights", kind="model", wanted=lambda path: True)
    assert files_in(folder) == {"config.json": b"{}", "w.bin": BIG}


def test_paths_that_lead_out_of_the_folder_are_never_written(server: Hub, cache: Path) -> None:
    evil = {"../../evil": b"1" * 2000, "a/../../../evil": b"2", "c:/evil": b"3", "a\\..\\evil": b"4", "good": b"5"}
    server.repositories[("dataset", REPO)] = evil
    folder = snapshot(REPO, wanted=lambda path: True)
    assert files_in(folder) == {"good": b"5"} and source_of(folder) == f"hf://{REPO}@{commit_of(evil)[:12]}"
    assert not list(cache.parent.rglob("*evil*"))


def test_a_broken_connection_goes_on_where_it_stopped(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what it writes at a time
    server.faults = Faults(cut_after=100_000)
    folder = snapshot(REPO, wanted=train, patience=HASTY)
    assert files_in(folder)["data/train-0.parquet"] == BIG
    assert server.sent[hashlib.sha256(BIG).hexdigest()] == len(BIG)


def test_another_process_goes_on_with_the_file_that_one_was_stopped_in(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditkit.io.parallel._AT_ONCE", 1)
    server.faults = Faults(broken=frozenset({"data/train-1.parquet"}))
    with pytest.raises(MachineError, match=r"cannot download hf://someone/faces/data/train-1.parquet: .* answers 503"):
        snapshot(REPO, wanted=train, patience=Patience(delays=()))
    forget()
    server.faults = Faults()
    assert files_in(snapshot(REPO, wanted=train))["data/train-0.parquet"] == BIG
    assert set(server.sent.values()) == {len(BIG)}


def test_a_connection_that_breaks_again_and_again_is_one_error(server: Hub) -> None:
    server.faults = Faults(cut_after=0)
    with pytest.raises(MachineError, match=r"cannot reach http://.* for hf://someone/faces: the connection breaks off"):
        snapshot(REPO, wanted=train, patience=HASTY)


def test_a_file_of_another_commit_is_refused(server: Hub) -> None:
    server.faults = Faults(other_commit=True)
    with pytest.raises(MachineError, match="does not answer as the hub does"):
        snapshot(REPO, wanted=train, patience=HASTY)


def test_who_comes_at_the_same_time_shares_one_download(server: Hub) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: snapshot(REPO, wanted=train), range(3)))
    assert len(set(folders)) == 1 and files_in(folders[0])["data/train-0.parquet"] == BIG
    assert server.sent[hashlib.sha256(BIG).hexdigest()] == len(BIG)


@pytest.mark.parametrize("path", ["data/train-0.parquet", "small.json"])
def test_wrong_content_is_refused_and_not_kept(server: Hub, cache: Path, path: str) -> None:
    server.faults = Faults(wrong_content=True)
    with pytest.raises(MachineError, match=r"has the (sha256|git name) .*, not "):
        snapshot(REPO, wanted=lambda one: one == path, patience=HASTY)
    assert [one.name for one in (cache / "hub").rglob("*") if one.is_file()] == [NOTE]
    assert not [one for one in (cache.parent / "hf").rglob("*") if one.name == path or one.parent.name == "blobs"]


def test_a_web_page_instead_of_a_file_is_refused(server: Hub) -> None:
    server.faults = Faults(page=True)
    with pytest.raises(MachineError, match="does not answer as the hub does"):
        snapshot(REPO, wanted=train, patience=HASTY)


def test_a_web_page_instead_of_an_answer_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_server.json.dumps", lambda tree: "<html>Please sign in to this network</html>")
    with pytest.raises(MachineError, match="does not answer as the hub does"):
        snapshot(REPO, wanted=train)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(server: Hub, status: int) -> None:
    server.faults = Faults(statuses=[status, status], retry_after="0")
    assert len(files_in(snapshot(REPO, wanted=train, patience=HASTY))) == 2
    assert server.faults.statuses == []


def test_a_busy_hub_is_left_alone_as_long_as_it_asks(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("ditkit.io.hub.time.sleep", waits.append)
    server.faults = Faults(statuses=[429, 429], retry_after="7")
    snapshot(REPO, wanted=train)
    assert waits == [7, 7]
    server.faults = Faults(statuses=[429], retry_after="1000")
    forget()
    with pytest.raises(MachineError, match="answers 429"):
        snapshot(REPO, revision="other", wanted=train)


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("someone/else", None, "there is no dataset someone/else on the hub, or it is private"),
        (REPO, "v2", "hf://someone/faces has no such revision"),
        (REPO, "0" * 40, "hf://someone/faces has no such revision"),
        ("../etc", None, "is not the name of a repository"),
        ("a/b/c", None, "is not the name of a repository"),
    ],
)
def test_a_wrong_name_is_a_usage_error(server: Hub, repo: str, revision: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        snapshot(repo, revision=revision, wanted=train)


def test_a_gated_repository_says_how_to_be_let_in(server: Hub) -> None:
    server.faults = Faults(gated=True)
    with pytest.raises(UsageError, match="only by those let in") as raised:
        snapshot(REPO, wanted=train)
    assert f"{server.endpoint}/datasets/{REPO}" in str(raised.value.hint) and "HF_TOKEN" in str(raised.value.hint)


def test_a_repository_without_wanted_files_says_so(server: Hub) -> None:
    with pytest.raises(UsageError, match="has none of the files that are needed"):
        snapshot(REPO, wanted=lambda path: False)


def test_the_token_goes_to_the_hub_and_to_no_other_host(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    snapshot(REPO, wanted=lambda path: path in ("small.json", "data/train-0.parquet"))
    told = {path.split("/")[1]: token for path, token in server.tokens}
    assert told == {"api": "Bearer secret", "datasets": "Bearer secret", "storage": None}


def test_a_branch_is_looked_up_again_and_while_offline_stays_at_the_last_commit_seen(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = snapshot(REPO, wanted=train)
    server.older[commit_of(FILES)] = FILES
    server.repositories[("dataset", REPO)] = {**FILES, "data/train-2.parquet": b"new" * 1000}
    assert snapshot(REPO, wanted=train) == old  # within a process nothing changes
    forget()
    new = snapshot(REPO, wanted=train)
    assert new != old and (new / "data/train-2.parquet").is_file()
    forget()
    server.faults.down = True
    assert snapshot(REPO, wanted=train, patience=HASTY) == new
    assert snapshot(REPO, revision=commit_of(FILES), wanted=train) == old
    server.faults.down, before = False, server.asked.total()
    for name in ("DITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as context:
            context.setenv(name, "1")
            assert snapshot(REPO, wanted=train) == new
            with pytest.raises(MachineError, match=f"is not downloaded, because {name} is set"):
                snapshot(REPO, wanted=lambda path: "test" in path)
    assert server.asked.total() == before


def test_offline_without_the_files_says_so_with_the_callers_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        MachineError, match="hf://someone/faces is not looked up, because HF_HUB_OFFLINE is set"
    ) as raised:
        snapshot(REPO, wanted=train, by_hand="put it there")
    assert raised.value.hint == "put it there (from http://127.0.0.1:9/datasets/someone/faces)"


def test_a_hub_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"cannot reach http://127.0.0.1:9 for hf://someone/faces"):
        snapshot(REPO, wanted=train)


def test_a_full_disk_is_found_before_anything_comes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(paths.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(MachineError, match="MB are free"):
        snapshot(REPO, wanted=train)
    assert not server.sent


def test_much_is_asked_about_first_and_progress_is_reported(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ASK_FROM", 500_000)
    told, shown, questions = [], [], []

    @contextmanager
    def watch(text: str):
        told.append(text)
        yield lambda done, total: shown.append((done, total))

    def ask(answer: bool):
        return lambda text: questions.append(text) or answer

    with (
        reporting_to(watch, ask(False)),
        pytest.raises(UsageError, match=r"not done: download 2 files, 600 kB") as raised,
    ):
        snapshot(REPO, wanted=train)
    assert "--yes" in str(raised.value.hint) and not server.sent and not told
    with reporting_to(watch, ask(True)):
        folder = snapshot(REPO, wanted=train)
        snapshot(REPO, wanted=lambda path: "test" in path)
    what = f"2 files, 600 kB, from hf://someone/faces@{commit_of(FILES)[:12]} to {folder.parents[1]}"
    assert questions == [f"download {what}"] * 2 and told[0] == f"downloading {what}" and len(told) == 2
    assert [done for done, _ in shown] == sorted(done for done, _ in shown[:-2]) + [done for done, _ in shown[-2:]]
    assert (600_000, 600_000) in shown


def test_a_damaged_note_is_written_again(server: Hub, cache: Path) -> None:
    folder = snapshot(REPO, wanted=train)
    for content in (b"", b"[]", b"{}", json.dumps({"format": 1}).encode()):
        (note_folder(cache) / NOTE).write_bytes(content)
        assert snapshot(REPO, wanted=train) == folder
    (folder / "data/train-0.parquet").write_bytes(b"cut")
    assert files_in(snapshot(REPO, wanted=train))["data/train-0.parquet"] == BIG


# --- the cache is shared: with other tools, and with processes that were stopped


@pytest.mark.skipif(
    "tqdm_class" not in signature(hf_hub_download).parameters,
    reason="this huggingface_hub goes on with what a stopped process has left",
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_process_that_is_interrupted_or_ends_leaves_no_part_of_a_file(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    release, blobs = threading.Event(), tmp_path / "hf/hub/datasets--someone--faces/blobs"

    def slow(url: str, temp_file: Any, *, tqdm_class: Any, **options: Any) -> None:
        with tqdm_class(total=9):
            temp_file.write(b"part")
            temp_file.flush()
            release.wait(30)

    @contextmanager
    def watch(text: str) -> Iterator[Callable[..., None]]:
        def interrupt(done: float, total: float | None) -> None:
            if len(list(blobs.glob("*.incomplete"))) == 2:
                raise error

        yield interrupt

    monkeypatch.setattr("huggingface_hub.file_download.http_get", slow)
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(snapshots.atexit, "register", at_exit.append)
    with reporting_to(watch), pytest.raises(error):
        snapshot(REPO, wanted=train)
    for end in at_exit:
        end()
    assert blobs.is_dir() and not list(blobs.iterdir())
    release.set()


def test_parts_of_a_killed_process_are_listed_and_removed_once_nobody_writes_them(server: Hub, tmp_path: Path) -> None:
    blobs = snapshot(REPO, wanted=train).parents[1] / "blobs"
    old, new, foreign = blobs / "a.1.incomplete", blobs / "b.1.incomplete", tmp_path / "hf/hub/models--x/blobs"
    foreign.mkdir(parents=True)
    for path in (old, new, foreign / "a.1.incomplete"):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    os.utime(foreign / "a.1.incomplete", (0, 0))
    (entry,) = [entry for entry in entries() if entry.unfinished]
    assert entry.path == old and remove(entry) == 4 and not old.exists() and new.exists()


def test_removing_takes_checked_files_alone_and_no_blob_that_another_commit_has(server: Hub, tmp_path: Path) -> None:
    shared = tmp_path / "hf/hub"
    server.older[commit_of(FILES)] = FILES
    folder = snapshot(REPO, wanted=train)
    hf_hub_download(REPO, "small.json", repo_type="dataset", cache_dir=shared, endpoint=server.endpoint)
    server.repositories[("dataset", REPO)] = {**FILES, "data/train-1.parquet": b"new" * 1000}
    newer = Path(snapshot_download(REPO, repo_type="dataset", cache_dir=shared, endpoint=server.endpoint))
    (entry,) = entries()
    freed = (folder / "data/train-1.parquet").resolve()
    assert len(BIG) < remove(entry) < 2 * len(BIG)
    assert files_in(folder) == {"small.json": b"{}"} and not freed.exists() and not entry.path.exists()
    assert files_in(newer) == server.repositories[("dataset", REPO)]


@pytest.mark.parametrize("moved", [False, True])
def test_a_file_that_was_exchanged_since_its_check_is_checked_again(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    folder = snapshot(REPO, wanted=train)
    if moved:
        shutil.copytree(tmp_path / "hf", tmp_path / "other", symlinks=True)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other/hub"))
        folder = tmp_path / "other/hub" / folder.relative_to(tmp_path / "hf/hub")
    before = (folder / "data/train-0.parquet").stat()
    (folder / "data/train-0.parquet").write_bytes(bytes(len(BIG)))
    if moved:
        os.utime(folder / "data/train-0.parquet", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert snapshot(REPO, wanted=train) == folder and files_in(folder)["data/train-0.parquet"] == BIG


def test_a_wrong_file_is_asked_about_before_it_is_fetched_and_stays_until_then(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = snapshot(REPO, wanted=train) / "data/train-0.parquet"
    damaged.write_bytes(bytes(len(BIG)))
    sent = server.sent.total()
    monkeypatch.setattr(snapshots, "ASK_FROM", 1000)
    with reporting_to(None, lambda text: False), pytest.raises(UsageError, match="not done: download 1 file, 300 kB"):
        snapshot(REPO, wanted=train)
    server.faults.broken = frozenset({"data/train-0.parquet"})
    with pytest.raises(MachineError, match="answers 503"):
        snapshot(REPO, wanted=train, patience=HASTY)
    assert damaged.read_bytes() == bytes(len(BIG)) and server.sent.total() == sent


@pytest.mark.usefixtures("links")
def test_what_a_link_out_of_the_cache_leads_to_is_not_deleted(server: Hub, tmp_path: Path) -> None:
    link, mine = snapshot(REPO, wanted=train) / "data/train-0.parquet", tmp_path / "mine"
    mine.write_bytes(b"mine")
    link.unlink()
    link.symlink_to(mine)
    assert files_in(snapshot(REPO, wanted=train))["data/train-0.parquet"] == BIG
    mine.write_bytes(bytes(len(BIG)))
    link.resolve().unlink()
    link.unlink()
    link.symlink_to(mine)
    server.faults.wrong_content = True
    with pytest.raises(MachineError, match="has the sha256"):
        snapshot(REPO, wanted=train, patience=HASTY)
    assert mine.read_bytes() == bytes(len(BIG)) and not link.exists()


def test_a_full_disk_never_hides_the_first_error(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    snapshots.files_of(REPO)
    monkeypatch.setattr(snapshots.atomic, "write_atomically", full)
    server.faults = Faults(wrong_content=True)
    with pytest.raises(MachineError, match="has the sha256"):
        snapshot(REPO, wanted=train, patience=HASTY)
    forget()
    with pytest.raises(MachineError, match=r"cannot write to .*: No space left on device") as raised:
        snapshot(REPO, wanted=train)
    assert raised.value.hint == paths.NO_ROOM


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), FileNotFoundError(2, "gone")])
def test_a_file_that_cannot_be_read_is_one_error_and_one_that_vanishes_is_fetched(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    snapshot_download(REPO, repo_type="dataset", cache_dir=tmp_path / "hf/hub", endpoint=server.endpoint)
    errors = [error]

    def read(digest: Any, file: Any) -> None:
        while errors:
            raise errors.pop()
        digest.update(file.read())

    monkeypatch.setattr("ditkit.io.hub.update_digest", read)
    if isinstance(error, FileNotFoundError):
        assert files_in(snapshot(REPO, wanted=train))["data/train-0.parquet"] == BIG
        return
    with pytest.raises(MachineError, match=r"cannot read .*: Permission denied") as raised:
        snapshot(REPO, wanted=train)
    assert "HF_HOME" in str(raised.value.hint)


def test_offline_a_part_of_a_model_is_no_list_of_its_files(server: Hub, tmp_path: Path, monkeypatch) -> None:
    hf_hub_download("someone/weights", "config.json", cache_dir=tmp_path / "hf/hub", endpoint=server.endpoint)
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    assert snapshot("someone/weights", kind="model", wanted=("config.json",)).is_dir()
    for ask in (
        lambda: files_of("someone/weights", kind="model"),
        lambda: files_of("someone/weights", kind="model", needed=("w.bin",)),
        lambda: snapshot("someone/weights", kind="model", wanted=("config.json", "w.bin")),
        lambda: snapshot("someone/weights", kind="model", wanted=lambda path: path == "w.bin"),
    ):
        with pytest.raises(MachineError, match="is not looked up, because DITKIT_OFFLINE is set"):
            ask()


def test_a_branch_that_another_tool_has_moved_on_is_not_set_back(server: Hub, cache: Path) -> None:
    branch = snapshot(REPO, wanted=train).parents[1] / "refs/main"
    assert branch.read_text() == commit_of(FILES)
    branch.write_text("f" * 40)
    forget()
    server.faults.down = True
    note = note_folder(cache) / NOTE
    note.write_text(json.dumps({**json.loads(note.read_text()), "checked": []}))  # so that it is all checked again
    snapshot(REPO, wanted=train, patience=HASTY)
    assert branch.read_text() == "f" * 40
