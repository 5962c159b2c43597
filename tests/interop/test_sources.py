"""Where a model to import comes from, what it is called, and that one on the hub needs no address of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import said
from foreign import Meta
from hub_server import Hub, forget, hub
from loopback import LoopbackServer, QuietHandler

from ditkit.errors import UsageError
from ditkit.interop import sources
from ditkit.interop.sources import find_source
from ditkit.io.progress import no_progress, reporting_to
from ditkit.io.shared import shared_cache
from ditkit.runs.lookup import hub_address

WEIGHTS = "weights/DiT-S-2.pt"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("results/000-DiT-S-4/checkpoints/0050000.pt", "000-dit-s-4"),
        ("lightning_logs/cats/checkpoints/epoch=3-step=1000.ckpt", "cats"),
        ("dit/global_step20/mp_rank_00_model_states.pt", "dit"),
        ("dit-cats/checkpoint-500/model.safetensors", "dit-cats"),
        ("my-model-v2.pth.tar", "my-model-v2"),
        ("hub/models--me--dit-dogs/snapshots/" + "a" * 40 + "/model.safetensors", "dit-dogs"),
        ("x/celeba_ema.pt", "celeba_ema"),
    ],
)
def test_a_model_is_called_after_the_last_part_of_its_place_that_says_something(
    tmp_path: Path, path: str, name: str
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    assert find_source(str(file)).name() == name


@pytest.mark.parametrize(
    ("word", "address", "name"),
    [
        ("https://huggingface.co/me/dit-dogs", ("me/dit-dogs", None, ""), "dit-dogs"),
        ("https://huggingface.co/me/dit-dogs/tree/v2/inner", ("me/dit-dogs", "v2", "inner"), "inner"),
        ("https://hf.co/me/dit-dogs/resolve/main/model.pt", ("me/dit-dogs", "main", "model.pt"), "dit-dogs"),
        ("https://huggingface.co/me/x/blob/main/a/b%20c.pt", ("me/x", "main", "a/b c.pt"), "b-c"),
        ("me/dit-dogs@v2", ("me/dit-dogs", "v2", ""), "dit-dogs"),
    ],
)
def test_pages_and_files_of_the_hub_are_places_on_it(word: str, address: Any, name: str) -> None:
    source = find_source(word)
    assert source.hub and (source.hub.repo, source.hub.revision, source.hub.subset) == address
    assert source.name() == name


@pytest.mark.parametrize("word", ["https://huggingface.co/datasets/me/x", "https://huggingface.co/me", "ftp://a/b.pt"])
def test_other_addresses_are_refused(word: str) -> None:
    with pytest.raises(UsageError):
        find_source(word)


class _File(QuietHandler):
    content = b""

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1  # pyright: ignore
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Any]:
    """A server of Meta's DiT."""
    _File.content = Meta(width=384, heads=6, classes=2).save(tmp_path / "x.pt").read_bytes()
    server: Any = LoopbackServer(_File)
    server.asked = Counter()
    with server.running():
        yield server


def test_a_file_of_the_web_is_fetched_once_and_asked_about_if_large(web: Any, capsys, monkeypatch) -> None:
    url = f"{web.endpoint}/DiT/models/DiT-XL-2-256x256.pt"
    for count in (1, 2):
        code, out, err = said(capsys, f"import {url} --as x{count}")
        assert (code, out) == (0, f"runs/x{count}\n"), err
    assert sum(web.asked.values()) == 1
    assert said(capsys, f"import {url}")[1] == "runs/dit-xl-2-256x256\n"
    monkeypatch.setattr(sources, "ASK_FROM", 100)
    source = find_source(f"{web.endpoint}/other.pt")
    with reporting_to(no_progress, lambda _: False), pytest.raises(UsageError, match=r"not done: download .* MB"):
        source.fetched()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    content = Meta(width=384, heads=6, classes=2).save(tmp_path / "x.pt").read_bytes()
    with hub({("model", "me/dit-dogs"): {WEIGHTS: content, "optimizer.pt": b"x", "README.md": b"x"}}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def test_what_another_tool_has_fetched_is_imported_without_a_network(server: Hub, capsys, monkeypatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("me/dit-dogs", WEIGHTS, endpoint=server.endpoint, cache_dir=shared_cache())
    server.faults.down = True
    forget()
    monkeypatch.setenv("DITKIT_OFFLINE", "1")
    code, out, err = said(capsys, "import me/dit-dogs")
    assert (code, out) == (0, "runs/dit-dogs\n"), err


def test_a_repository_is_named_plainly_unless_something_here_is_called_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    assert hub_address("me/dit-dogs", runs) == "hf://me/dit-dogs"
    assert hub_address("me/dit-dogs@v2", runs) == "hf://me/dit-dogs@v2"
    assert hub_address("hf://me/dit-dogs", runs) == "hf://me/dit-dogs"
    for word in (None, "mnist", "runs/mnst", "a/b/c", "./me/x", "out/model.safetensors", "me/x.pt"):
        assert hub_address(word, runs) is None
    (tmp_path / "me").mkdir()
    assert hub_address("me/dit-dogs", runs) is None


def test_a_repository_of_another_project_says_how_it_comes_in(server: Hub, capsys) -> None:
    code, out, err = said(capsys, "sample --model me/dit-dogs")
    assert (code, out) == (2, "") and "holds no model of ditkit's" in err
    assert "`ditkit import me/dit-dogs`" in err
