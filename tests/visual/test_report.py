"""`ditkit report`: one file, everything in it, nothing fetched, and names that are no HTML."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from ditkit import recipes
from ditkit.cli.app import main
from ditkit.runs.folder import RunFolder

NAME = "<b>faces & co"


class Page(HTMLParser):
    """Tags, addresses and text of a page; unbalanced tags are an error."""

    EMPTY = ("meta", "img", "input", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += data


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / NAME)
    folder.samples.mkdir(parents=True)
    folder.write_config(recipes.load("mnist"))
    rows = [{"step": step, "loss": 1 / step, "loss_q1": 1 / step, "lr": 1e-3} for step in range(1, 31)]
    rows += [{"step": 30, "validation_loss": 0.125}]
    folder.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    times = [{"step": step, "seconds": 60.0 * (step if step < 20 else step - 19)} for step in range(1, 31)]
    folder.timing_file.write_text("".join(json.dumps(row) + "\n" for row in times), encoding="utf-8")
    for step, shade in ((10, 60), (20, 120), (30, 180)):
        Image.new("L", (40, 30), shade).save(folder.samples / f"step-{step:07d}.png")
    (folder.samples / "step-0000025.png").write_bytes(b"no picture")
    return folder


def report(folder, *line: str) -> int:
    return main(["report", str(folder.path), "--quiet", *line])


def test_the_page_has_everything_in_itself(folder):
    record = {"step": 30, "metrics": {"frechet": 1.25}, "drawn": {"samples": 500}, "features": {"name": "lenet"}}
    folder.evaluation_file.write_text(json.dumps([record]), encoding="utf-8")
    Image.new("L", (8, 8)).save(folder.path / "progress.gif")
    assert report(folder) == 0
    text = (folder.path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    assert NAME in page.words and "b" not in page.tags[: page.tags.index("h1") + 2], "a name must not become a tag"
    for word in ("0.1250", "1.25", "500", "30 of", "validate_every = 500", "30.0 min"):
        assert word in page.words, word
    (data,) = re.findall(r'id="grids">(.*?)</script>', text)
    frames = json.loads(data)
    assert [label for label, _ in frames] == ["step 10", "step 20", "step 30"]
    assert all(base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG") for _, source in frames)


def test_damaged_extras_are_left_out(folder):
    folder.evaluation_file.write_text("{", encoding="utf-8")
    (folder.path / "incidents.jsonl").write_bytes(b"\xff\xfe")
    for path in folder.samples.iterdir():
        path.write_bytes(b"no picture")
    assert report(folder) == 0
    page = Page((folder.path / "report.html").read_text(encoding="utf-8"))
    assert "Samples" not in page.words and "Evaluation" not in page.words and "Loss" in page.words


def test_it_overwrites_its_own_page_and_no_other(folder, tmp_path, capsys):
    assert report(folder) == 0 and report(folder) == 0
    mine = tmp_path / "mine.html"
    mine.write_text("mine", encoding="utf-8")
    assert report(folder, "--out", str(mine)) == 2
    assert "--force" in capsys.readouterr().err and mine.read_text(encoding="utf-8") == "mine"
    assert report(folder, "--out", str(mine), "--force") == 0
    assert report(folder, "--out", str(tmp_path / "mine.pdf")) == 2


def test_a_run_that_has_not_started_is_said_to_be_so(folder, capsys):
    folder.metrics_file.unlink()
    assert report(folder) == 3
    assert "no losses yet" in capsys.readouterr().err
