"""`ditkit data show`, `list` and `remove`: what they say, write and delete, and what they leave alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import refused, said
from PIL import Image

from ditkit.cli import console
from ditkit.errors import BusyError
from ditkit.io import atomic
from ditkit.io import cache as io_cache

HASH = "0123456789abcdef"


def image(path: Path, width: int = 20, height: int = 24, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (shade, 2 * shade, 100)).save(path)


@pytest.fixture
def photos() -> Path:
    """Twenty cats of 20x24 and ten dogs of 100x80 pixels, one of which cannot be read and one is there twice."""
    for number in range(20):
        image(Path(f"photos/cats/{number}.png"), shade=number)
    for number in range(8):
        image(Path(f"photos/dogs/{number}.png"), 100, 80, shade=number)
    Path("photos/dogs/broken.png").write_bytes(b"no image")
    Path("photos/dogs/copy.png").write_bytes(Path("photos/dogs/1.png").read_bytes())
    return Path("photos")


@pytest.fixture
def full(cache: Path) -> Path:
    """A cache with one entry of each kind, and what killed processes leave."""
    files = {
        f"downloads/photos-{HASH}.zip": b"x" * 3000,
        "downloads/faces.zip.part": b"x" * 500,
        "downloads/faces.zip.part.json": json.dumps({"url": "https://example.org/faces.zip"}).encode(),
        f"extracted/photos-{HASH}/COMPLETE.json": json.dumps({"source": {"place": "/home/me/photos.zip"}}).encode(),
        f"extracted/photos-{HASH}/cats/1.png": b"x" * 2000,
        "extracted/.tmp-unpack-dogs-01234567/1.png": b"x" * 100,
        "hub/owner--faces-0123456789ab/about.json": json.dumps({"source": "hub: owner/faces", "what": "f"}).encode(),
        "hub/owner--faces-0123456789ab/data/1.parquet": b"x" * 5_000_000,
        "packs/.other.lock": b"",
        "packs/.notes.json.0123abcd.tmp": b"x" * 10,
        "packs/odd": b"x",
        "about.txt": b"no entry",
    }
    for name, content in files.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(content)
    return cache


def names() -> list[str]:
    return [entry.name for entry in io_cache.entries()]


ALL = [
    "downloads/faces.zip.part",
    f"downloads/photos-{HASH}.zip",
    "extracted/.tmp-unpack-dogs-01234567",
    f"extracted/photos-{HASH}",
    "hub/owner--faces-0123456789ab",
    "packs/.notes.json.0123abcd.tmp",
    "packs/odd",
]
UNFINISHED = [ALL[0], ALL[2], ALL[5]]


# --- show


def test_show_reports_counts_sizes_duplicates_and_unreadable_images(photos: Path, capsys) -> None:
    code, out, err = said(capsys, "data show ./photos")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"photos: 30 images in {photos.resolve()}"
    assert "label        train  validation" in lines
    assert "cats            18           2" in lines
    assert "in all          27           3" in lines
    assert any(line.startswith("  20x24 ") and "20   69.0 %  ████" in line for line in lines)
    assert any(line.startswith("  100x80 ") and " 9   31.0 %" in line for line in lines)
    assert "  20 images (69.0 %) smaller than 64x64: enlarged, so blurred" in lines
    assert "formats: PNG 29" in lines and "colours: RGB 29" in lines
    assert any(line.startswith("duplicates: 2 images in 1 group") for line in lines)
    assert "  dogs/1.png" in out and "dogs/copy.png" in out
    assert "unreadable: 1 image" in lines
    assert f"  {photos.resolve()}/dogs/broken.png: it is damaged, or none of JPEG" in out
    assert lines[-1] == "picture: data-photos.png"
    assert err == (
        "warning: 1 image cannot be read, and training would stop (data.max_bad): mend them or take them away\n"
    )
    assert all(len(line) <= 80 for line in lines if str(photos.resolve()) not in line)


def test_the_picture_is_a_png_of_every_class_and_says_of_what(photos: Path, capsys) -> None:
    assert said(capsys, "data show ./photos --out sheets/one.png --quiet") == (0, "", "")
    with Image.open("sheets/one.png") as picture:
        assert picture.format == "PNG" and picture.info["dataset"] == "photos"
        assert 800 < picture.width <= 2000 and 150 < picture.height < 300
    assert not Path("data-photos.png").exists()


def test_the_picture_overwrites_nothing_unless_asked_to(photos: Path, capsys) -> None:
    Path("data-photos.png").write_bytes(b"mine")
    assert "picture: data-photos-2.png" in said(capsys, "data show ./photos")[1]
    code, _, err = said(capsys, "data show ./photos --out data-photos.png")
    assert code == 2 and "data-photos.png is there already" in err
    assert Path("data-photos.png").read_bytes() == b"mine"
    assert said(capsys, "data show ./photos --out data-photos.png --force")[0] == 0
    assert Path("data-photos.png").read_bytes()[:4] == b"\x89PNG"


def test_json_is_one_object_with_everything(photos: Path, capsys) -> None:
    code, out, _ = said(capsys, "data show ./photos --json --set data.validation=0 --image-size 64x96")
    found = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (found["name"], found["images"], found["examined"]) == ("photos", 30, 30)
    assert found["labels"] == ["cats", "dogs"]
    assert found["counts"] == {"train": {"cats": 20, "dogs": 10}, "validation": {"cats": 0, "dogs": 0}}
    assert found["image_size"] == [64, 96]
    assert found["sizes"] == [
        {"width": 20, "height": 24, "images": 20},
        {"width": 100, "height": 80, "images": 9},
    ]
    assert found["enlarged"] == 20 and found["formats"] == {"PNG": 29} and found["modes"] == {"RGB": 29}
    assert found["duplicates"] == {
        "groups": 1,
        "images": 2,
        "across_splits": 0,
        "across_labels": 0,
        "listed": [
            [
                {"name": "dogs/1.png", "split": "train", "label": "dogs"},
                {"name": "dogs/copy.png", "split": "train", "label": "dogs"},
            ]
        ],
    }
    assert found["unreadable"] == 1
    assert found["unreadable_listed"][0]["place"].endswith("dogs/broken.png")
    assert found["picture"] == "data-photos.png" and Path(found["picture"]).is_file()


def test_a_limit_is_reported(photos: Path, capsys) -> None:
    out = said(capsys, "data show ./photos --limit 6")[1]
    assert "6 of them are examined: what follows is about these, but for the counts" in out
    assert "in all          27           3" in out


def test_digits_are_shown_though_they_are_no_files(capsys) -> None:
    code, out, err = said(capsys, "data show mnist --limit 200")
    assert (code, err) == (0, "")
    assert "mnist: 60,500 images\n" in out
    assert "0            5,923          42" in out
    assert "  28x28 " in out and "formats" not in out and "duplicates: none" in out
    with Image.open("data-mnist.png") as picture:
        assert picture.height > 10 * 84


def test_many_labels_and_many_sizes_are_summed_up(capsys) -> None:
    for number in range(45):
        image(Path(f"many/class {number:02}/a.png"), 10 + 20 * number, 30 + 4 * number, shade=number)
    out = said(capsys, "data show ./many --set data.validation=0")[1]
    assert "class 29" in out and "class 30" not in out and "… and 15 more labels" in out
    assert "  shorter side 16 to 31 " in out and "  shorter side 128 to 255 " in out
    assert "  shorter side: 10 to 206 pixels, median 118" in out
    assert "  most common of 45: 10x30 (1), 30x34 (1), 50x38 (1)" in out


def test_a_flat_folder_has_no_labels(capsys) -> None:
    image(Path("flat/a.png"))
    out = said(capsys, "data show ./flat")[1]
    assert ["(no", "labels)", "1", "0"] in [line.split() for line in out.splitlines()]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_a_terminal_would_obey_are_spelled_out(capsys) -> None:
    name = "a\n\x1b[31m.png"
    Path("odd").mkdir()
    Path("odd", name).write_bytes(b"no image")
    image(Path("odd/b.png"))
    Path("odd/c\x1b.png").write_bytes(Path("odd/b.png").read_bytes())
    code, out, _ = said(capsys, "data show ./odd")
    assert code == 0 and "\x1b" not in out
    assert r"/odd/a\n\x1b[31m.png: it is damaged" in out and r"b.png = c\x1b.png" in out
    assert said(capsys, "data show ./odd --json")[0] == 0


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("data show folder", 3, "needs a folder of images"),
        ("data show celeba", 6, "flwrlabs/celeba"),
        ("data show ./empty", 3, "no images in"),
        ("data show ./nowhere", 2, "there is no folder ./nowhere"),
        ("data show mnist --out notes.txt/x.png", 2, "notes.txt is a file"),
    ],
)
def test_a_data_set_that_cannot_be_opened_is_two_lines_as_in_training(line: str, code: int, message: str, capsys):
    Path("empty").mkdir()
    Path("notes.txt").touch()
    before = sorted(Path().rglob("*"))
    refused(capsys, line, code, message)
    assert sorted(Path().rglob("*")) == before


def test_a_data_set_without_any_readable_image_is_reported_without_a_picture(photos: Path, capsys) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no image")
    code, out, _ = said(capsys, "data show ./photos")
    assert code == 0 and "unreadable: 30 images" in out and "… and 20 more" in out
    assert "picture" not in out and not Path("data-photos.png").exists()


def test_a_disk_that_is_full_is_reported_after_the_survey(photos: Path, capsys, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    code, out, err = said(capsys, "data show ./photos")
    assert (code, out) == (6, "") and "cannot write data-photos.png: No space left on device" in err
    assert not list(Path().glob("*data-photos*"))


# --- list


def test_list_names_data_sets_and_entries_with_size_and_source(full: Path, capsys) -> None:
    code, out, err = said(capsys, "data list")
    lines = out.splitlines()
    assert code == 0
    assert any(line.split()[:3] == ["mnist", "Handwritten", "digits,"] for line in lines)
    assert f"in the cache, {full}:" in lines
    at = next(at for at, line in enumerate(lines) if line.split() == [ALL[3], "2", "kB", "0", "s"])
    assert lines[at + 1] == "    from /home/me/photos.zip"
    assert "    from hub: owner/faces" in lines and "    from https://example.org/faces.zip" in lines
    assert [line.split()[0] for line in lines if line.endswith("unfinished")][:3] == UNFINISHED
    assert lines[-1] == "  5.0 MB in all, 650 B of it unfinished"
    assert "about.txt" not in out and ".lock" not in out and "part.json" not in out
    assert "`ditkit data remove --unfinished`" in err


def test_list_as_json(full: Path, capsys) -> None:
    os.utime(full / "packs/odd", (1e9, 1e9))
    code, out, err = said(capsys, "data list --json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["cache"] == str(full) and "mnist" in found["datasets"]
    assert [entry["name"] for entry in found["entries"]] == ALL
    assert [entry["name"] for entry in found["entries"] if entry["unfinished"]] == UNFINISHED
    assert found["entries"][-1] == {
        "name": "packs/odd",
        "path": str(full / "packs/odd"),
        "bytes": 1,
        "modified": 1e9,
        "source": None,
        "unfinished": False,
    }
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])


def test_an_old_entry_differs_from_a_new_one(full: Path, capsys) -> None:
    for name, age in (("packs/odd", 90_000 * 10), (ALL[1], 7200)):
        os.utime(full / name, (time.time() - age,) * 2)
    out = said(capsys, "data list")[1]
    assert "1 B   10 days" in out and "3 kB       2 h" in out


def test_a_cache_that_is_not_there_is_empty_and_stays_away(cache: Path, capsys) -> None:
    code, out, err = said(capsys, "data list")
    assert (code, err) == (0, "") and out.endswith(f"in the cache, {cache}:\n  nothing\n")
    assert said(capsys, "data remove --all --yes") == (0, "", "there is nothing to remove\n")
    assert json.loads(said(capsys, "data remove --unfinished --json")[1]) == {"removed": [], "bytes": 0}
    assert not cache.exists()


@pytest.mark.parametrize("line", ["data list", "data list --json", "data remove --all --yes", "data remove x"])
def test_a_cache_that_is_a_file_is_two_lines(line: str, cache: Path, capsys) -> None:
    cache.write_text("x", encoding="utf-8")
    code, out, err = said(capsys, line)
    assert (code, out) == (6, "")
    assert err.splitlines()[0] == f"error: the cache {cache} is a file" and "DITKIT_CACHE" in err


def test_notes_that_are_nonsense_are_no_source(full: Path, capsys) -> None:
    about = full / "hub/owner--faces-0123456789ab/about.json"
    for content in (b"", b"[]", b"{}", b'{"source": 3}', b'{"source": ""}', b"\xff", b"[" * 100_000, b"3"):
        about.write_bytes(content)
        entry = next(entry for entry in io_cache.entries() if entry.kind == "hub")
        assert entry.source is None, content
    assert said(capsys, "data list")[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_with_odd_characters_are_spelled_out_and_can_be_removed(full: Path, capsys) -> None:
    (full / "packs/a\n\x1b[31m").write_bytes(b"x")
    if sys.platform == "linux":
        (full / "packs" / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    code, out, _ = said(capsys, "data list")
    assert code == 0 and "\x1b" not in out and r"packs/a\n\x1b[31m " in out
    assert said(capsys, "data list --json")[0] == 0
    for shown in [line.split()[0] for line in out.splitlines() if line.startswith(("  packs/a", "  packs/caf"))]:
        assert said(capsys, f"data remove {shown} --yes")[0] == 0
    assert names() == ALL


# --- remove


@pytest.mark.parametrize("word", ["packs/odd", "odd", "od", "packs/o"])
def test_an_entry_is_removed_by_its_name_or_the_beginning_of_it(word: str, full: Path, capsys) -> None:
    assert said(capsys, f"data remove {word} --yes") == (0, "", "removed packs/odd: 1 B are free again\n")
    assert names() == ALL[:-1]
    assert {path.name for path in (full / "packs").iterdir()} == {".other.lock", ".notes.json.0123abcd.tmp"}


def test_several_are_removed_and_json_says_what(full: Path, capsys) -> None:
    code, out, err = said(capsys, "data remove hub downloads/photos --yes --json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"removed": [ALL[1], ALL[4]], "bytes": 3000 + 5_000_000 + 43}
    assert names() == [name for name in ALL if name not in (ALL[1], ALL[4])]


def test_a_beginning_of_several_is_refused_but_a_whole_name_is_taken(full: Path, capsys) -> None:
    (full / "extracted" / f"photos-{HASH}2").mkdir()
    code, _, err = said(capsys, "data remove photos --yes")
    assert code == 2 and "'photos' may be any of 3 entries" in err and f"extracted/photos-{HASH}2" in err
    assert said(capsys, f"data remove photos-{HASH} --yes")[0] == 0
    assert f"extracted/photos-{HASH}2" in names() and f"extracted/photos-{HASH}" not in names()


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("faces", None, None),
        ("owner--facse", "unknown entry of the cache 'owner--facse'", "did you mean"),
        ("aces-01", "unknown entry of the cache 'aces-01'", "did you mean 'hub/owner--faces-0123456789ab'?"),
        ("mnist", "mnist is inside ditkit", "pip uninstall"),
        ("folder", "nothing of 'folder' is in the cache", "ditkit data list"),
        ("../cache/packs/odd", "unknown entry", "did you mean"),
        (".", "may be any of", "say which"),
        ("/", "unknown entry", "did you mean"),
    ],
)
def test_a_name_that_is_none_removes_nothing(word: str, message: str | None, hint: str | None, full: Path, capsys):
    code, out, err = said(capsys, f"data remove {word} --yes")
    if message is None:
        assert code == 0 and "downloads/faces.zip.part" not in names()
        return
    assert (code, out) == (2, "") and message in err and str(hint) in err
    assert names() == ALL


def test_all_is_all_and_unfinished_is_what_is_unfinished(full: Path, capsys) -> None:
    assert said(capsys, "data remove --unfinished --yes")[2] == "removed 3 entries: 650 B are free again\n"
    assert names() == [name for name in ALL if name not in UNFINISHED]
    assert not (full / "downloads/faces.zip.part.json").exists()
    assert said(capsys, "data remove --all --yes --quiet") == (0, "", "")
    assert names() == [] and (full / "about.txt").exists()
    assert sorted(path.name for path in full.rglob("*") if path.is_file()) == [".other.lock", "about.txt"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal at both ends; what is typed comes from what is put into it."""
    typed = Terminal()
    monkeypatch.setattr(sys, "stdin", typed)
    real = console.stderr

    def stderr():
        made = real()
        made._force_terminal = True
        return made

    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(console, "stderr", stderr)
    yield typed


@pytest.mark.parametrize(
    ("typed", "gone"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_at_a_terminal_it_asks_first(typed: str, gone: bool, terminal: Terminal, full: Path, capsys) -> None:
    terminal.write(typed)
    terminal.seek(0)
    code, out, err = said(capsys, "data remove --unfinished")
    assert (code, out) == (0, "")
    assert "remove 3 entries of the cache, 650 B? [y/N]" in err and all(name in err for name in UNFINISHED)
    assert ("nothing is removed" in err) != gone and (UNFINISHED[0] not in names()) == gone


def test_without_a_terminal_or_a_yes_it_is_refused(full: Path, capsys) -> None:
    code, out, err = said(capsys, "data remove --all")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: there is no terminal to ask at: remove 7 entries of the cache, 5.0 MB?",
        "hint: say yes with --yes",
    ]
    assert names() == ALL


# --- what must never go


@pytest.mark.usefixtures("links")
def test_links_are_removed_and_never_followed(full: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").write_bytes(b"x" * 1000)
    (full / "packs/link").symlink_to(tmp_path / "mine")
    (full / "elsewhere").symlink_to(tmp_path / "mine")
    before = sum(entry.size for entry in io_cache.entries() if entry.name != "packs/link")
    (full / f"extracted/photos-{HASH}/link").symlink_to(tmp_path / "mine")
    after = sum(entry.size for entry in io_cache.entries() if entry.name != "packs/link")
    assert after - before < 1000
    _, out, err = said(capsys, "data list")
    assert "elsewhere/" not in out
    assert f"warning: {full / 'elsewhere'} leads elsewhere" in err
    assert said(capsys, "data remove --all --yes")[0] == 0
    assert names() == [] and not (full / "packs/link").is_symlink()
    assert (tmp_path / "mine/photo.png").read_bytes() == b"x" * 1000


@pytest.mark.usefixtures("links")
def test_a_cache_that_is_itself_a_link_is_a_cache(full: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "link").symlink_to(full)
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "link"))
    assert names() == ALL
    assert said(capsys, "data remove odd --yes")[0] == 0 and not (full / "packs/odd").exists()


HOLDER = """
import sys, time
from pathlib import Path
from ditkit.io.locks import exclusive
with exclusive(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("made", "entry"),
    [
        (f"extracted/photos-{HASH}", ALL[3]),
        ("extracted/dogs", ALL[2]),
        ("downloads/faces.zip", ALL[0]),
        ("packs/notes.json", ALL[5]),
    ],
)
def test_what_another_process_is_making_stays(made: str, entry: str, full: Path, capsys) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(full / made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin and holder.stdout and holder.stdout.readline().strip() == b"True"
        code, _, err = said(capsys, f"data remove {entry} --yes")
        assert code == BusyError.exit_code == 7 and f"error: {entry} is in use" in err
        assert names() == ALL
        code, _, err = said(capsys, "data remove --all --yes")
        assert code == 7 and "removed 6 entries" in err and names() == [entry]
        holder.stdin.close()
    assert said(capsys, f"data remove {entry} --yes")[0] == 0 and names() == []


def test_a_kill_on_the_way_leaves_it_whole_or_something_unfinished(full: Path, capsys, monkeypatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(io_cache, "_delete", killed)
    assert said(capsys, f"data remove extracted/photos-{HASH} --yes")[0] == 130
    left = [entry for entry in io_cache.entries() if entry.kind == "extracted"]
    assert all(entry.unfinished for entry in left) and sum(entry.size for entry in left) > 2000
    monkeypatch.undo()
    monkeypatch.setenv("DITKIT_CACHE", str(full))
    assert said(capsys, "data remove --unfinished --yes")[0] == 0
    assert not any((full / "extracted").iterdir())


@pytest.mark.parametrize("broken", ["rename", "_delete"])
def test_what_the_system_does_not_let_go_is_two_lines(broken: str, full: Path, capsys, monkeypatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(atomic if broken == "rename" else io_cache, broken, refuse)
    words = ("cannot remove packs/odd: ", "Permission denied", str(full / "packs/odd"))
    refused(capsys, "data remove packs/odd --yes", 6, *words)


def test_a_cache_where_no_lock_can_be_made_is_two_lines(full: Path, capsys, monkeypatch) -> None:
    real = os.open

    def refuse(path, flags, *rest, **options):
        if str(path).endswith(".lock"):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, _, err = said(capsys, "data remove packs/odd --yes")
    assert code == 6 and "Read-only file system" in err and names() == ALL


def test_an_unpacked_archive_that_was_removed_is_unpacked_again(cache: Path, tmp_path: Path, capsys) -> None:
    import shutil

    for number in range(12):
        image(tmp_path / f"pack/{number}.png", shade=number)
    shutil.make_archive(str(tmp_path / "pack"), "gztar", tmp_path / "pack")
    assert said(capsys, "data show ./pack.tar.gz --quiet")[0] == 0
    (entry,) = io_cache.entries()
    assert entry.name.startswith("extracted/pack-") and entry.source == str((tmp_path / "pack.tar.gz").resolve())
    assert said(capsys, "data remove pack --yes")[0] == 0 and io_cache.entries() == []
    assert said(capsys, "data show ./pack.tar.gz --quiet")[0] == 0 and len(io_cache.entries()) == 1
