"""Training on what a hub has, from the command line, with a hub that runs on loopback."""

from __future__ import annotations

import io
import json
import ntpath
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import refused, said
from hub_server import Faults, Hub, commit_of, forget, hub
from huggingface_hub import snapshot_download
from made_tables import faces, picture, table
from platforms import as_windows

from ditkit.config import DataConfig
from ditkit.data import celeba
from ditkit.data import hub as hub_data
from ditkit.data.contract import open_dataset
from ditkit.errors import UsageError
from ditkit.io import snapshot as snapshots
from ditkit.io.hub import HubAddress, parse
from ditkit.io.text import format_size
from ditkit.runs.folder import RunFolder

TINY = (
    "--set data.image_size=8 --set model.patch=4 --set model.width=32 --set model.depth=1 --set model.heads=2 "
    "--set data.validation=4 --set sample.steps=1 --set train.sample_columns=1 --steps 2 --batch-size 4 --device cpu"
)
CELEBA = {
    "README.md": b"---\nlicense: other\n---\n",
    "img_align+identity+attr/train-00000-of-00002.parquet": faces(20),
    "img_align+identity+attr/train-00001-of-00002.parquet": faces(20, 20),
    "img_align+identity+attr/valid-00000-of-00001.parquet": faces(8, 40),
    "img_align+identity+attr/test-00000-of-00001.parquet": faces(8, 50),
}
# Versions of pyarrow write files of different sizes.
TRAINED_ON = format_size(sum(len(content) for path, content in CELEBA.items() if "test-" not in path))
LABELLED = table(
    [picture(number) for number in range(40)],
    features={"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}},
    label=[number % 2 for number in range(40)],
)
LOOSE = {
    f"{part}/{label}/{number}.png": picture(number)
    for part, first in (("train", 0), ("test", 50))
    for label in ("cat", "dog")
    for number in range(first, first + 10)
}


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


REPOSITORIES = {
    ("dataset", celeba.REPO): CELEBA,
    ("dataset", "someone/pets"): {"data/train-0.parquet": LABELLED, "data/test-0.parquet": LABELLED},
    ("dataset", "someone/loose"): LOOSE,
    ("dataset", "someone/hostile"): {**LOOSE, "/etc/cat/1.png": picture(1), "../../dog/2.png": picture(2)},
    ("dataset", "someone/packed"): {"all.zip": zipped(LOOSE)},
    ("dataset", "someone/words"): {"train.csv": b"a,b\n", "README.md": b"<html>"},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub(REPOSITORIES) as server:
        server.older[celeba.COMMIT] = CELEBA
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def paths_asked(server: Hub) -> str:
    return " ".join(server.asked)


# --- celeba


def test_celeba_arrives_and_is_trained_on_with_one_command(
    server: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, f"train celeba --yes {TINY}")
    assert code == 0, err
    place = f"hf://flwrlabs/celeba@2d738f56e0e7 to {cache.parent}/hf/hub/datasets--flwrlabs--celeba"
    assert f"downloading 3 files, {TRAINED_ON}, from {place}\n" in err
    assert err.count(celeba.LICENCE) == 1
    assert RunFolder(Path("runs/celeba")).last_step() == 2
    assert "test-00000" not in paths_asked(server)
    asked = server.asked.total()
    code, _, err = said(capsys, f"train celeba --name pair --label-by Male,Smiling {TINY}")
    assert code == 0 and celeba.LICENCE not in err and "downloading" not in err and server.asked.total() == asked
    assert "next: `ditkit sample --labels female male female+smiling male+smiling`" in err
    code, out, err = said(capsys, "sample --model pair --labels female+smiling male --device cpu --json")
    assert code == 0, err
    assert [Path(one["path"]).is_file() for one in json.loads(out)["images"]] == [True, True]
    assert said(capsys, "sample --model pair --labels smiling --device cpu")[0] == 2


def test_celeba_needs_no_network_once_it_is_there(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, f"lr-find celeba --steps 20 --quiet {TINY.replace('--steps 2 ', '')}")[0] == 0
    server.faults.down = True
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert said(capsys, f"train celeba --quiet {TINY}") == (0, "", "")


def test_celeba_without_a_network_is_one_error(
    server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    words = ("img_align_celeba/", "list_attr_celeba.txt", "valid-*.parquet", "--data-dir FOLDER")
    refused(capsys, f"train celeba {TINY}", 6, *words)
    assert not Path("runs").exists() and not cache.exists()


def test_another_revision_of_celeba_can_be_asked_for(server: Hub) -> None:
    other = {**CELEBA, "img_align+identity+attr/train-00001-of-00002.parquet": faces(10, 20)}
    server.older["f" * 40] = other
    config = DataConfig(name="celeba", image_size=(8, 8), channels=3)
    assert len(open_dataset(config, "train")) == 40
    assert len(open_dataset(replace(config, revision="f" * 40), "train")) == 30


def test_a_local_folder_of_the_same_tables_is_the_same_data(server: Hub, tmp_path: Path) -> None:
    for path, content in CELEBA.items():
        (tmp_path / "mine" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / path).write_bytes(content)
    config = DataConfig(name="celeba", image_size=(8, 8), channels=3)
    for split in ("train", "validation"):
        local = open_dataset(replace(config, path=str(tmp_path / "mine")), split)
        assert local.fingerprint == open_dataset(config, split).fingerprint


def test_a_download_that_breaks_off_is_one_error_and_the_next_command_goes_on(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.faults = Faults(broken=frozenset({"img_align+identity+attr/train-00001-of-00002.parquet"}))
    code, _, err = said(capsys, f"train celeba {TINY}")
    assert code == 6 and "error: cannot download hf://flwrlabs/celeba/img" in err and "list_attr_celeba.txt" in err
    server.faults = Faults()
    assert said(capsys, f"train celeba --quiet {TINY}")[0] == 0
    assert set(server.sent.values()) == {len(content) for path, content in CELEBA.items() if "test" not in path} - {23}


# --- asking


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["", "n\n", "what?\n", "y\n", "YES\n"])
def test_a_person_is_asked_before_much_is_downloaded(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    monkeypatch.setattr(snapshots, "ASK_FROM", 1000)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdin", Typed(answer))
    code, _, err = said(capsys, f"train celeba --dry-run {TINY}")
    assert f"download 3 files, {TRAINED_ON}, from hf://flwrlabs/celeba@2d738f56e0e7 to " in err and "? [y/N]" in err
    if answer[:1].lower() == "y":
        assert code == 0
    else:
        assert code == 2 and "not done: download 3 files" in err and "--yes" in err and "--data-dir" in err
        assert "storage" not in paths_asked(server)


@pytest.mark.parametrize("how", ["--yes", "no terminal", "launched"])
def test_nobody_is_asked_who_has_said_yes_or_cannot_answer(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setattr(snapshots, "ASK_FROM", 1000)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO() if how == "no terminal" else Typed())
    if how == "launched":
        monkeypatch.setenv("RANK", "0")
    code, _, err = said(capsys, f"train celeba --dry-run {TINY} {how if how == '--yes' else ''}")
    assert code == 0 and "[y/N]" not in err and f"3 files, {TRAINED_ON}" in err


# --- hf://


def test_a_dataset_on_the_hub_is_trained_on_by_its_address(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, f"train hf://someone/pets {TINY}")
    assert code == 0, err
    assert "36 images, 2 labels, in runs/pets" in err and "next: `ditkit sample --labels cat dog`" in err
    assert "test-0" not in paths_asked(server)
    assert RunFolder(Path("runs/pets")).read_config().data.path == "hf://someone/pets"
    forget()
    assert said(capsys, "train pets --steps 3 --device cpu --quiet") == (0, "", "")


def test_a_run_does_not_go_on_with_other_images_and_does_while_the_hub_is_away(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, f"train hf://someone/pets --quiet {TINY}")[0] == 0
    changed = table([picture(one) for one in range(100, 140)], label=[("cat", "dog")[one % 2] for one in range(40)])
    server.repositories[("dataset", "someone/pets")] = {"data/train-0.parquet": changed}
    forget()
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    assert said(capsys, "train pets --steps 3 --device cpu --quiet") == (0, "", "")
    monkeypatch.delenv("DITKIT_OFFLINE")
    code, _, err = said(capsys, "train pets --steps 4 --device cpu --quiet")
    assert code == 3 and "these are not the images that runs/pets was started with" in err


def test_images_and_archives_on_the_hub_are_as_good_as_a_folder(server: Hub) -> None:
    config = DataConfig(name="hub", image_size=(8, 8), channels=3, validation=2)
    loose = open_dataset(replace(config, path="hf://someone/loose"), "train")
    assert loose.labels == ("cat", "dog") and len(loose) == 18
    assert not [path for path in server.asked if "/test/" in path]
    assert len(open_dataset(replace(config, path="hf://someone/loose"), "validation")) == 2
    some = open_dataset(replace(config, path="hf://someone/loose/test/cat"), "train")
    assert some.labels == () and len(some) == 9
    packed = open_dataset(replace(config, path="hf://someone/packed", validation=0), "train")
    assert packed.labels == ("cat", "dog") and len(packed) == 20


def test_only_files_for_training_are_taken_whatever_else_lies_beside_them(server: Hub, tmp_path: Path) -> None:
    files = {f"data/{label}/{number}.png": picture(number) for label in ("cat", "dog") for number in range(5)}
    other = {"data/test/cat/9.png": picture(9), "data2/metadata.csv": b"file_name,label\n"}
    server.repositories["dataset", "someone/twins"] = {**files, **other}
    config = DataConfig(name="hub", image_size=(8, 8), channels=3, validation=0, path="hf://someone/twins")
    images = open_dataset(config, "train")
    assert images.labels == ("cat", "dog") and len(images) == 10
    assert "data2" not in paths_asked(server) and "data/test" not in paths_asked(server)
    whole = snapshot_download(
        "someone/twins", repo_type="dataset", cache_dir=tmp_path / "hf/hub", endpoint=server.endpoint
    )
    assert (Path(whole) / "data/test/cat/9.png").is_file()
    again = open_dataset(config, "train")
    assert again.labels == ("cat", "dog") and again.fingerprint == images.fingerprint


def test_labels_beside_nested_images_are_found_on_windows_too(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{part}/{number}.png" for part in ("a", "b") for number in range(5)]
    table_of_labels = "".join(["file_name,label\n", *(f"{name},{name[2]}\n" for name in names)]).encode()
    files = {f"data/train/{name}": picture(number) for number, name in enumerate(names)}
    server.repositories["dataset", "someone/nested"] = {**files, "data/train/metadata.csv": table_of_labels}
    monkeypatch.setattr(hub_data, "os", SimpleNamespace(path=ntpath), raising=False)
    config = DataConfig(name="hub", image_size=(8, 8), channels=3, validation=0, path="hf://someone/nested")
    assert open_dataset(config, "train").labels == ("0", "1", "2", "3", "4")


def test_a_file_that_windows_cannot_have_is_named_there_and_read_elsewhere(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{label}/{number}.png": picture(number) for label in ("aux", "dog") for number in range(5)}
    server.repositories["dataset", "someone/devices"] = {**files, "notes./readme.txt": b"not needed"}
    config = DataConfig(name="hub", image_size=(8, 8), channels=3, validation=0, path="hf://someone/devices")
    assert open_dataset(config, "train").labels == ("aux", "dog")
    as_windows(monkeypatch, snapshots)
    with pytest.raises(
        UsageError, match=r"someone/devices has the file 'aux/0.png': Windows keeps that name to itself"
    ):
        open_dataset(config, "train")


def test_the_folder_dataset_reads_addresses_of_the_hub_too(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, f"train folder --data-dir hf://someone/pets --dry-run {TINY}")
    assert code == 0 and "36 images, 2 labels" in err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("train hf://someone/nothing", 2, ["there is no dataset someone/nothing on the hub"]),
        ("train hf://someone/pets@v9", 2, ["hf://someone/pets has no such revision"]),
        ("train hf://someone/pets/nowhere", 2, ["has no configuration or folder 'nowhere'"]),
        ("train hf://someone/pets --label-by lable", 2, ["unknown column 'lable'", "did you mean 'label'?"]),
        ("train hf://someone/pets --set data.image_column=picture", 2, ["unknown column 'picture'", "image"]),
        ("train hf://someone/words", 3, ["has no parquet tables, images or archives", "refs/convert/parquet"]),
        ("train hf://", 2, ["is not the name of a repository on the hub"]),
        ("train hf://a/../b", 2, ["is not the name of a repository on the hub"]),
        ("train hub", 2, ["needs a repository", "ditkit train hf://user/dataset"]),
    ],
)
def test_mistakes_are_one_error_and_one_hint(
    server: Hub, capsys: pytest.CaptureFixture[str], line: str, code: int, words: list[str]
) -> None:
    refused(capsys, f"{line} --quiet", code, *words)


def test_an_unknown_attribute_is_found_before_anything_is_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "train celeba --label-by Male,Smilling")
    assert code == 2 and err == "error: unknown attribute 'Smilling'\nhint: did you mean 'Smiling'?\n"


def test_addresses_are_read() -> None:
    assert parse("hf://user/name") == parse("hf://datasets/user/name/") == HubAddress("user/name")
    assert parse("hf://user/name@refs/convert/parquet") == HubAddress("user/name", "refs/convert/parquet")
    assert parse("hf://user/name/some/folder@v1") == HubAddress("user/name", "v1", "some/folder")
    assert parse("hf://name") == HubAddress("name")
    for wrong in ("hf://", "hf://a b/c", "hf://user/name/../x", "hf://user/na--me"):
        with pytest.raises(UsageError):
            parse(wrong)


def test_the_commits_of_the_server_are_those_that_git_would_like() -> None:
    assert len(commit_of(CELEBA)) == 40


def entries_of_the_hub(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    entries = json.loads(said(capsys, "data list --json")[1])["entries"]
    return [entry for entry in entries if entry["name"].startswith("hub/")]


def test_what_other_tools_share_is_listed_and_removed_only_by_its_name(
    server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, f"train hf://someone/pets --dry-run {TINY}")[0] == 0
    (entry,) = entries_of_the_hub(capsys)
    shared = tmp_path / "hf/hub/datasets--someone--pets"
    assert entry["name"].startswith("hub/someone--pets-") and Path(entry["shared"]).parents[1] == shared
    assert entry["bytes"] > len(LABELLED) and f"in {shared}" in said(capsys, "data list")[1]
    code, _, err = said(capsys, "data remove --all --yes")
    assert code == 0 and f"what other tools share stays, unless it is named: {entry['name']}" in err
    assert any(shared.rglob("train-0.parquet"))
    code, _, err = said(capsys, f"data remove {entry['name']} --yes")
    assert code == 0 and "are free again" in err and not shared.exists()
    assert entries_of_the_hub(capsys) == []


def test_paths_that_lead_out_of_a_repository_are_left_out(server: Hub) -> None:
    """A listing of a hub's is as foreign as any file."""
    configs = (DataConfig(name="hub", path=f"hf://someone/{name}", validation=4) for name in ("loose", "hostile"))
    loose, hostile = (open_dataset(config, "train") for config in configs)
    assert len(hostile) == len(loose) > 0 and hostile.labels == ("cat", "dog")
