"""Archives that lie, escape, explode or are cut short: one line, exit code 3, and nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from archives import (
    END,
    FEW,
    GOOD,
    GOOD_TAR,
    GOOD_ZIP,
    HOSTILE,
    PICTURE,
    SMALL,
    header,
    patched,
    picture,
    tar_of,
    zip_of,
)
from command_line import refused, said
from patience import Limit, scaled

from ditkit.config import DataConfig
from ditkit.data import celeba
from ditkit.data.contract import open_dataset
from ditkit.data.sources import archive_names, location
from ditkit.data.sources import extract as extraction
from ditkit.data.sources import zip as zip_reader
from ditkit.data.sources.archive_names import COMPLETE, Limits
from ditkit.data.sources.extract import extract, is_whole
from ditkit.errors import DataError, MachineError, UsageError
from ditkit.io import locks
from ditkit.io.locks import exclusive
from ditkit.io.paths import cache_dir, cache_folder
from ditkit.io.progress import reporting_to

pytestmark = pytest.mark.timeout(60)

TINY = (
    "--set model.patch=7 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.image_size=14 "
    "--set sample.steps=1 --set train.sample_columns=1 --device cpu"
)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of everything that is written."""
    lengths: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: lengths.append(len(data)) or write(to, data))
    return lengths


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_one_line_and_leaves_nothing(kind: str, tmp_path: Path, written: list[int]) -> None:
    make, message = HOSTILE[kind]
    archive = tmp_path / "in" / "photos.zip"
    (tmp_path / "out").mkdir()
    archive.parent.mkdir()
    archive.write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    limit = Limit(5)
    with pytest.raises(DataError) as caught:
        extract(archive, tmp_path / "out" / "photos", limits=SMALL)
    assert message in caught.value.message and str(archive) in caught.value.message
    assert caught.value.message.isprintable() and len(caught.value.message) < 600
    assert caught.value.exit_code == 3 and caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before
    assert sum(written) <= SMALL.harmless + 4 * archive_names.BLOCK
    assert not limit.is_over()


def test_a_bomb_stops_at_the_usual_limits_too(tmp_path: Path, written: list[int]) -> None:
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(tar_of({"a.png": bytes(80 << 20)}), 9))
    with pytest.raises(DataError, match="unpacks to more than 67,108,864 bytes"):
        extract(tmp_path / "a.tar.bz2", tmp_path / "out" / "a")
    assert sum(written) <= 65 << 20


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, None])
def test_memory_stays_small_whatever_is_unpacked(pack: Callable[[bytes], bytes] | None, tmp_path: Path) -> None:
    content = {"a.png": bytes(32 << 20)}
    (tmp_path / "archive").write_bytes(pack(tar_of(content)) if pack else zip_of(content))
    tracemalloc.start()
    try:
        extract(tmp_path / "archive", tmp_path / "out", limits=Limits(ratio=10**6))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * archive_names.BLOCK and (tmp_path / "out" / "a.png").stat().st_size == 32 << 20


def test_a_directory_of_too_many_members_or_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    with pytest.raises(DataError, match="has more than 11 members"):
        extract(tmp_path / "a.zip", tmp_path / "out", limits=Limits(members=11))
    assert _files(extract(tmp_path / "a.zip", tmp_path / "out", limits=Limits(members=12))) == FEW
    monkeypatch.setattr(zip_reader, "LONGEST_DIRECTORY", 500)
    with pytest.raises(DataError, match="has a directory that is too long"):
        extract(tmp_path / "a.zip", tmp_path / "other")


@pytest.mark.faults
def test_memory_stays_small_however_many_members_a_tar_has(tmp_path: Path) -> None:
    hidden = b"".join(header(name=b".%05d" % index) for index in range(100))
    (tmp_path / "a.tar").write_bytes(tar_of({"a.png": PICTURE})[:1024] + hidden * 200 + END)
    tracemalloc.start()
    try:
        extract(tmp_path / "a.tar", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * archive_names.BLOCK and set(_files(tmp_path / "out")) == {"a.png"}


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_no_flipped_bit_changes_what_comes_out(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # not what is tested here
    pack = {".zip": lambda _: GOOD_ZIP, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
    content, draw, archive = pack[suffix](GOOD_TAR), random.Random(suffix), tmp_path / f"a{suffix}"
    refused = 0
    for attempt in range(150):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        archive.write_bytes(changed)
        target = tmp_path / "out" / str(attempt)
        try:
            extract(archive, target, limits=SMALL)
        except DataError:
            refused += 1
        else:
            assert _files(target) == FEW
            shutil.rmtree(target)
    assert refused > 75 and list((tmp_path / "out").iterdir()) == []


# --- good archives


def _files(folder: Path) -> dict[str, bytes]:
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found.pop(COMPLETE, None)
    return found


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_archive_is_unpacked_to_the_byte(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(GOOD[kind]())
    seen: list[tuple[float, float]] = []
    folder = extract(archive, tmp_path / "out" / "a", limits=SMALL, on_progress=lambda *at: seen.append(at))
    assert _files(folder) == FEW
    assert seen and seen[-1][0] == seen[-1][1] > 0
    note = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    assert (note["files"], note["bytes"]) == (len(FEW), sum(map(len, FEW.values())))
    assert note["source"]["place"] == str(archive) and note["source"]["bytes"] == archive.stat().st_size
    assert list((tmp_path / "out").iterdir()) == [folder] and is_whole(folder)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_in_a_tar_arrive(form: int, tmp_path: Path) -> None:
    files = {"a/" + "b" * 200 + "/" + "c" * 200 + ".png": PICTURE, "été/日本.png": PICTURE}
    (tmp_path / "a.tar").write_bytes(tar_of(files, form))
    assert _files(extract(tmp_path / "a.tar", tmp_path / "out")) == files


@pytest.mark.skipif(os.name == "nt", reason="needs names that are bytes")
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_foreign_names_arrive_where_the_system_has_only_ascii(pack: Callable[..., bytes], tmp_path: Path) -> None:
    files = {"\xe9t\xe9/\u65e5\u672c.png": PICTURE}
    settings = {"form": tarfile.USTAR_FORMAT, "encoding": "utf-8"} if pack is tar_of else {}
    (tmp_path / "a.zip").write_bytes(pack(files, **settings))
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", UNPACK, str(tmp_path / "a.zip"), str(tmp_path / "out")]
    subprocess.run(command, env=ascii_only, check=True, timeout=scaled(60))
    assert _files(tmp_path / "out") == files and is_whole(tmp_path / "out")


def test_names_of_a_zip_in_either_encoding_arrive(tmp_path: Path) -> None:
    content = zip_of({"\xe9t\xe9.png": PICTURE})
    (tmp_path / "a.zip").write_bytes(content)
    flags_off = patched(content, b"\0\x08\x08\0", b"\0\0\x08\0")  # UTF-8, but does not say so: macOS
    (tmp_path / "b.zip").write_bytes(flags_off)
    (tmp_path / "c.zip").write_bytes(patched(patched(zip_of({"xtx.png": PICTURE}), b"xtx", b"\x82t\x82"), b"PK", b"PK"))
    for name in "abc":
        assert _files(extract(tmp_path / f"{name}.zip", tmp_path / f"out-{name}")) == {"\xe9t\xe9.png": PICTURE}


def test_windows_own_rules_for_names_apply_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("10:30.png", "what?.png", "a.", "b "):
        member = archive_names.Member(name, 0, iter(()))
        assert archive_names.MemberNames().take(member) == (name,)
        with monkeypatch.context() as windows:
            windows.setattr(archive_names.os, "name", "nt")
            with pytest.raises(archive_names.BadArchive, match="reserves"):
                archive_names.MemberNames().take(member)


# --- once, whole, and repaired


def test_an_archive_is_unpacked_once_and_again_only_when_it_has_changed(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(GOOD_ZIP)
    told: list[str] = []

    def watch(text: str):
        told.append(text)
        return nullcontext(lambda done, total: None)

    with reporting_to(watch):
        folder = location.local_folder(str(archive))
        assert location.local_folder(str(archive)) == folder and _files(folder) == FEW
        assert told == [f"unpacking {archive} to {folder}"] and cache in folder.parents
        archive.write_bytes(zip_of({"cat/new.png": PICTURE, "dog/new.png": PICTURE}))
        other = location.local_folder(str(archive))
        assert other != folder and set(_files(other)) == {"cat/new.png", "dog/new.png"} and len(told) == 2
        os.utime(archive, (1, 1))  # perhaps another one of the same length
        assert location.local_folder(str(archive)) not in (folder, other) and len(told) == 3


@pytest.mark.parametrize("damage", ["file gone", "file shorter", "no note", "note nonsense"])
def test_an_unpacked_folder_that_was_damaged_since_is_unpacked_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    folder = location.local_folder(str(tmp_path / "photos.zip"))
    if damage == "file gone":
        (folder / "cat/3.png").unlink()
    elif damage == "file shorter":
        (folder / "cat/3.png").write_bytes(b"")
    elif damage == "no note":
        (folder / COMPLETE).unlink()
    else:
        (folder / COMPLETE).write_text("[" * 100_000, encoding="utf-8")
    assert not is_whole(folder)
    monkeypatch.setattr(location, "_ready", set())  # as in another process
    assert location.local_folder(str(tmp_path / "photos.zip")) == folder
    assert _files(folder) == FEW and [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_everything_is_on_disk_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        last = {name: position for position, name in enumerate(synced)}
        note, rest = last[str(old / COMPLETE)], {str(path) for path in old.rglob("*")} - {str(old / COMPLETE)}
        assert all(last[name] < note for name in rest) and last[str(old)] > note
        synced.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell which file a descriptor is")
    extract(tmp_path / "photos.zip", tmp_path / "out" / "photos")
    assert synced[-2:] == ["renamed", str(tmp_path / "out")]


UNPACK = """
import sys
from pathlib import Path
from ditkit.data.sources import extract as archives
archives.extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def _unpacking(archive: Path, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", UNPACK, str(archive), str(target)], stderr=subprocess.PIPE)


def _until(condition: Callable[[], object]) -> None:
    limit = Limit(20)
    while not condition():
        assert not limit.is_over()
        time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_extraction_is_never_used_and_its_leftover_files_go(tmp_path: Path) -> None:
    files = {f"{index % 10}/{index}.png": os.urandom(2000) for index in range(1500)}
    archive, out = tmp_path / "photos.zip", tmp_path / "out"
    archive.write_bytes(zip_of(files, compression=zipfile.ZIP_STORED))
    out.mkdir()
    for share in (1, 10):
        with _unpacking(archive, out / "photos") as child:
            _until(lambda share=share: len(list(out.glob(".tmp-unpack-photos-*/*"))) >= share)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        assert len(list(out.glob(".tmp-unpack-photos-*"))) == 1 and not is_whole(out / "photos")
    extract(archive, out / "photos")
    assert _files(out / "photos") == files and list(out.iterdir()) == [out / "photos"]


def test_leftover_files_of_other_archives_go_too_unless_they_are_in_use(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("dead", "alive"):
        (out / f".tmp-unpack-{name}-0123abcd").mkdir(parents=True)
    (out / ".tmp-step-0000100-0123abcd").mkdir()
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    holder = "import sys,time;from pathlib import Path;from ditkit.io.locks import exclusive\n"
    holder += "with exclusive(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(out / "alive")], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        extract(tmp_path / "photos.zip", out / "photos")
        child.kill()
    left = {path.name for path in out.iterdir()} - {".alive.lock"}
    assert left == {"photos", ".tmp-unpack-alive-0123abcd", ".tmp-step-0000100-0123abcd"}


def test_several_threads_unpack_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    opened: list[Path] = []
    open_archive = extraction._open
    monkeypatch.setattr(extraction, "_open", lambda *given: opened.append(given[0]) or open_archive(*given))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(extract, tmp_path / "photos.zip", tmp_path / "out" / "photos") for _ in range(4)]
    assert {future.result() for future in done} == {tmp_path / "out" / "photos"} and len(opened) == 1


def test_several_processes_unpack_it_once(tmp_path: Path) -> None:
    files = {f"{index}.png": os.urandom(500) for index in range(1000)}
    (tmp_path / "photos.zip").write_bytes(zip_of(files, compression=zipfile.ZIP_STORED))
    children = [_unpacking(tmp_path / "photos.zip", tmp_path / "out" / "photos") for _ in range(3)]
    seen: set[str] = set()
    while any(child.poll() is None for child in children):
        seen |= {path.name for path in (tmp_path / "out").glob(".tmp-unpack-*")}
        time.sleep(0.002)
    assert [child.communicate()[1] for child in children] == [b""] * 3
    assert _files(tmp_path / "out" / "photos") == files and len(seen) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photos"]


def test_a_lock_keeps_out_whoever_does_not_wait(tmp_path: Path) -> None:
    asker = "import sys;from pathlib import Path;from ditkit.io.locks import exclusive\n"
    asker += "with exclusive(Path(sys.argv[1]), wait=False) as held: print(held)"
    command = [sys.executable, "-c", asker, str(tmp_path / "thing")]
    with exclusive(tmp_path / "thing") as held:
        assert held and subprocess.check_output(command, text=True) == "False\n"
    assert subprocess.check_output(command, text=True) == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_while_it_was_taken_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_lock, tries = locks.try_lock, [0]

    def too_late(descriptor: int) -> bool | None:
        tries[0] += 1
        if tries[0] == 1:
            (tmp_path / ".thing.lock").unlink()  # by its last holder, on leaving
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", too_late)
    with exclusive(tmp_path / "thing") as held:
        assert held and tries == [2] and (tmp_path / ".thing.lock").exists()


# --- the disk


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(
    tmp_path: Path, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    (tmp_path / "a.zip").write_bytes(zip_of({"a.png": bytes(60_000)}))
    (tmp_path / "b.tar").write_bytes(tar_of({"a.png": bytes(60_000)}))
    for name in ("a.zip", "b.tar"):
        with pytest.raises(MachineError, match=r"needs 0 MB in .*, where 0 MB are free") as caught:
            extract(tmp_path / name, tmp_path / "out" / name)
        assert "DITKIT_CACHE" in str(caught.value.hint)
    assert not written and list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, allowed = os.write, [5]

    def full(to: int, data: bytes) -> int:
        allowed[0] -= 1
        if allowed[0] < 0:
            raise OSError(28, "No space left on device")
        return write(to, data[:20])  # and writes are short

    monkeypatch.setattr(os, "write", full)
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    with pytest.raises(MachineError, match=r"cannot unpack .*: the disk is full"):
        extract(tmp_path / "a.zip", tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []
    allowed[0] = 10_000
    assert _files(extract(tmp_path / "a.zip", tmp_path / "out" / "a")) == FEW


def test_an_archive_that_changes_meanwhile_is_not_believed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(GOOD_ZIP)
    with pytest.raises(DataError, match="was changed while it was unpacked"):
        extract(archive, tmp_path / "out", on_progress=lambda *_: os.utime(archive, (1, 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITKIT_CACHE", "here")
    assert cache_dir() == tmp_path / "here" and not cache_dir().exists()
    assert cache_folder("extracted") == tmp_path / "here" / "extracted"
    assert list((tmp_path / "here" / "extracted").iterdir()) == []
    monkeypatch.setenv("DITKIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().name == "ditkit" and (sys.platform != "linux" or cache_dir() == tmp_path / "xdg" / "ditkit")


def test_what_is_in_a_cache_that_cannot_be_written_is_still_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    (tmp_path / "other.tar.gz").write_bytes(gzip.compress(GOOD_TAR))
    folder = location.local_folder(str(tmp_path / "photos.zip"))

    def read_only(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(cache)):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest, **more)

    opened = os.open
    monkeypatch.setattr(os, "open", read_only)
    assert location.local_folder(str(tmp_path / "photos.zip")) == folder
    code, _, err = said(capsys, "train ./other.tar.gz")
    assert code == 6 and f"error: cannot write to the cache {cache / 'extracted'}: Read-only file system" in err
    assert "DITKIT_CACHE" in err


# --- the command line


def test_an_archive_is_trained_on_and_continued_like_its_folder(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("My Photos.tar.gz").write_bytes(gzip.compress(tar_of({f"my/{name}": data for name, data in FEW.items()})))
    Path("My Photos.tar.gz").rename("photos.tar.gz")
    code, out, err = said(capsys, f"train ./photos.tar.gz --dry-run {TINY}")
    assert code == 0 and f'path = "{tmp_path / "photos.tar.gz"}"' in out
    assert err.startswith(f"unpacking {tmp_path / 'photos.tar.gz'} to {cache / 'extracted' / 'photos-'}")
    assert "would train runs/photos: 11 images, 2 labels" in err and "error" not in err
    before = _files(cache)
    for steps in (1, 2):
        code, _, err = said(capsys, f"train photos.tar.gz --steps {steps} {TINY} --quiet")
        assert (code, err) == (0, "")
    assert Path("runs/photos/checkpoints/step-0000002").is_dir() and _files(cache) == before
    code, _, err = said(capsys, "train photos --steps 3")  # the run by its name, with the settings of its own
    assert code == 0 and "unpacking" not in err and Path("runs/photos/checkpoints/step-0000003").is_dir()
    shutil.rmtree(cache)
    code, _, err = said(capsys, "train photos --steps 4")
    assert code == 0 and err.startswith("unpacking ") and _files(cache) == before


@pytest.mark.parametrize("line", ["train ./photos.zip", "train folder --data-dir photos.zip", "lr-find photos.zip"])
def test_an_archive_that_is_not_there_is_a_wrong_word(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, line)
    assert (code, out) == (2, "")
    assert err.endswith("hint: check the path\n") and err.count("\n") == 2
    assert err.startswith("error: ") and "there is no archive" in err and "photos.zip" in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "photos.zip is an empty file"),
        (GOOD_ZIP[:-9], "photos.zip is cut short, or no archive"),
        (zip_of({}), "photos.zip holds no files"),
        (zip_of({"../\x1b[31mevil.png": b""}), "photos.zip: '../\\x1b[31mevil.png' has a name"),
        (zip_of({"notes.txt": b"x"}), "no images in"),
        (zip_of({"a/1.png": PICTURE, "b/": b""}), "no images in the class folder b"),
    ],
)
@pytest.mark.parametrize("line", ["train ./photos.zip --quiet", "train folder --set data.path=photos.zip --quiet"])
def test_an_archive_that_cannot_be_trained_on_is_one_line(
    content: bytes, message: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos.zip").write_bytes(content)
    refused(capsys, line, 3, message)
    assert not Path("runs").exists()


def test_a_file_that_is_no_archive_is_a_wrong_word(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.png").write_bytes(PICTURE)
    code, _, err = said(capsys, "train photo.png")
    assert code == 2 and "photo.png is a file\nhint: give a folder of images, or a .zip or .tar archive of one" in err


def test_one_folder_in_an_archive_stands_for_it_and_several_are_labels() -> None:
    for name, top, labels in (("a", "", ("cat", "dog")), ("b", "photos/", ("cat", "dog")), ("c", "x/cat/", ())):
        Path(f"{name}.zip").write_bytes(zip_of({f"{top}{file}": data for file, data in FEW.items()}))
        if name == "c":
            Path("c.zip").write_bytes(zip_of({f"{top}{index}.png": PICTURE for index in range(4)}))
        config = DataConfig(name="folder", path=f"{name}.zip", image_size=(8, 8), channels=3)
        assert open_dataset(config, "train").labels == labels


def _celeba(folder: str = "img_align_celeba/") -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Images in a folder, and the list of their attributes."""
    images = {f"{folder}{number:06d}.jpg": picture(number) for number in range(1, 13)}
    rows = "".join(f"{number:06d}.jpg {1 - number % 2 * 2}\n" for number in range(1, 13))
    return images, {"list_attr_celeba.txt": f"12\nMale\n{rows}".encode()}


def test_celeba_may_be_packed_whole_or_its_images_only(tmp_path: Path) -> None:
    images, attributes = _celeba()
    (tmp_path / "faces.zip").write_bytes(zip_of({**images, **attributes}))
    (tmp_path / "wrapped.tar").write_bytes(
        tar_of({"celeba/img_align_celeba.zip": zip_of(images), "celeba/list_attr_celeba.txt": attributes.popitem()[1]})
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/img_align_celeba.zip").write_bytes(zip_of(images))
    (tmp_path / "folder/list_attr_celeba.txt").write_bytes(_celeba()[1]["list_attr_celeba.txt"])
    prints = set()
    for place in ("faces.zip", "wrapped.tar", "folder"):
        config = DataConfig(name="celeba", path=str(tmp_path / place), image_size=(8, 8), channels=3, validation=2)
        faces = celeba.dataset(config, "train")
        assert len(faces) == 11 and faces.labels == ("female", "male") and faces[0][0].shape == (8, 8, 3)
        prints.add(faces.fingerprint)
    assert len(prints) == 1


def test_an_address_or_word_that_is_none_is_reported_as_such() -> None:
    for word in ("ftp://host/a.zip", "file:///etc/passwd", "http://", "https://host:99999/a.zip", "http://[::1/a.zip"):
        with pytest.raises(UsageError, match="is not an http or https address"):
            location.local_folder(word)
    with pytest.raises(UsageError, match="has a name or a password in it"):
        location.local_folder("https://me:secret@host/a.zip")
    with pytest.raises(UsageError, match="is not the SHA-256"):
        location.local_folder("https://host/a.zip#sha256=123")
    assert location.stem("https://host/My%20Photos.TAR.GZ?x=1#sha256=0") == "My Photos"
    assert location.stem("a/b.zip") == "b" and location.stem("https://host/") == ""
    assert extraction.is_archive("A.ZIP") and not extraction.is_archive("a.png")
