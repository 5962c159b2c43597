"""What a model's description says of its real images is not fetched: whoever made the model wrote it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import said
from hub_server import hub
from loopback import LoopbackServer, QuietHandler
from made_tables import picture
from safetensors.torch import load_file

import ditkit
from ditkit import recipes
from ditkit.errors import MachineError, UsageError
from ditkit.evaluation.real_images import open_real_images, with_data_at
from ditkit.io import safetensors
from ditkit.runs.lookup import bundled_weights
from ditkit.runs.model_info import METADATA_KEY, read_model_info

PICTURES = {f"train/{label}/{number}.png": picture(number) for label in "38" for number in range(12)}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How often a web server with an archive (ZIP in the environment), or a hub with someone/pictures, was asked."""
    packed, asked = io.BytesIO(), []
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in PICTURES.items():
            archive.writestr(name, content)

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed.getvalue())))
            self.end_headers()
            self.wfile.write(packed.getvalue())

    files = {("dataset", "someone/pictures"): PICTURES}
    with LoopbackServer(Handler).running() as server, hub(files) as repositories:
        monkeypatch.setenv("HF_ENDPOINT", repositories.endpoint)
        monkeypatch.setenv("ZIP", f"{server.endpoint}/photos.zip")
        yield lambda: len(asked) + repositories.asked.total()


def model_of(place: str, path: Path, name: str = "folder") -> Path:
    """The bundled model with a description that names another place of its images."""
    bundled = bundled_weights("mnist")
    assert bundled is not None
    info = read_model_info(bundled)
    info = replace(info, config=replace(info.config, data=replace(info.config.data, name=name, path=place)))
    path.write_bytes(b"".join(safetensors.pieces(load_file(bundled), {METADATA_KEY: info.to_json()})))
    return path


COMMANDS = ["evaluate {} --samples 10 --steps 1", "sweep {} --samples 10 --steps 1"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "place"), [("folder", "ZIP"), ("hub", "hf://someone/pictures")])
def test_an_address_in_a_model_is_not_asked(command, name, place, requests, capsys, monkeypatch, tmp_path) -> None:
    place = place if name == "hub" else os.environ[place]
    model = model_of(place, tmp_path / "a.safetensors", name)
    line = command.format(model) + " --device cpu --batch-size 10"
    code, _, err = said(capsys, line)
    assert (code, requests()) == (UsageError.exit_code, 0), err
    assert f"error: the real images are at {place}, says the model, and nothing is fetched from there unasked" in err
    assert f"hint: if you trust it, name it: --data-dir {place}; or name a folder" in err
    with pytest.raises(UsageError, match="says the model"):
        ditkit.open_judge(read_model_info(model).config)
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    assert said(capsys, line)[0] == MachineError.exit_code and not requests()
    monkeypatch.delenv("DITKIT_OFFLINE")
    code, _, err = said(capsys, f"{line} --data-dir {place}")
    before = requests()
    assert code == 0 and before > 0, err
    assert (said(capsys, line)[0], requests()) == (0, before)  # it is here now


def test_a_folder_in_a_model_is_read_and_one_that_is_named_stands_for_a_repository(tmp_path) -> None:
    for name, content in PICTURES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config = recipes.load("mnist", {"data": {"name": "hub", "path": "hf://someone/pictures"}})
    here = with_data_at(config, str(tmp_path / "photos/train"))
    assert open_real_images(here.data).labels == ("3", "8")
    assert with_data_at(config, None) is config
