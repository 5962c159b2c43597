"""`ditkit export`: files that hold what the model holds, nothing overwritten unasked, mistakes found before torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import said
from fresh_process import run_lines

from ditkit import export, recipes
from ditkit.checkpoint.loading import build_network, load, load_network
from ditkit.cli import complete
from ditkit.errors import UsageError
from ditkit.interop import diffusers, onnx
from ditkit.interop.base import cast
from ditkit.interop.export import DTYPES, FORMATS, ONNX_PACKAGES
from ditkit.io import atomic, packages, safetensors
from ditkit.models.dit import DiT
from ditkit.runs.model_info import METADATA_KEY, ModelInfo, read_model_info

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ONNX_PACKAGES), reason='needs pip install "ditkit[onnx]"'
)
CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")


def write_model(path: Path, *, labels: int = 3, **model: Any) -> tuple[ModelInfo, DiT]:
    """A weights file of a small network with random weights."""
    sizes = {"patch": 7, "width": 32, "depth": 2, "heads": 2}
    info = ModelInfo(
        config=recipes.load("mnist", {"model": {**sizes, **model}, "sample": {"steps": 3}}),
        labels=tuple(str(number) for number in range(labels)),
        step=40,
    )
    network = build_network(info.config, labels)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    atomic.write_synced(path, safetensors.pieces(network.state_dict(), {METADATA_KEY: info.to_json()}))
    return info, network.eval().requires_grad_(False)


# --- safetensors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_file_describes_itself_and_draws(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info, network = write_model(tmp_path / "small.safetensors")
    code, out, err = said(capsys, f"export small.safetensors --dtype {dtype}")
    assert (code, out) == (0, "small-40.safetensors\n") and "step 40, ema weights" in err
    assert read_model_info(Path("small-40.safetensors")) == info
    tensors = safetensors.parse(bytearray(Path("small-40.safetensors").read_bytes()), tmp_path)
    assert {str(one.dtype) for one in tensors.values()} == {f"torch.{dtype}"}
    restored = load("small-40.safetensors").network.state_dict()
    for name, value in network.state_dict().items():
        assert restored[name].dtype == torch.float32
        assert torch.equal(restored[name], value.to(getattr(torch, dtype)).float())
    code, out, _ = said(capsys, "sample --model small-40.safetensors --labels 0 2 --out drawn --json")
    assert code == 0 and len(json.loads(out)["images"]) == 2 and Path("drawn/grid.png").is_file()


def test_json_says_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "small.safetensors")
    code, out, _ = said(capsys, "export small.safetensors --out deep/half.safetensors --dtype float16 --json")
    size = Path("deep/half.safetensors").stat().st_size
    expected = {"path": "deep/half.safetensors", "format": "safetensors", "dtype": "float16", "bytes": size}
    assert code == 0 and json.loads(out) == expected


def test_numbers_too_large_for_float16_are_refused() -> None:
    with pytest.raises(UsageError, match="float16 cannot hold") as caught:
        cast({"a": torch.tensor([1.0, 7e4])}, torch.float16)
    assert "bfloat16" in str(caught.value.hint)
    assert float(cast({"a": torch.tensor([7e4])}, torch.bfloat16)["a"]) == pytest.approx(7e4, rel=0.01)


def test_raw_weights_of_a_run_are_exported_on_request(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ditkit

    run = ditkit.train(tiny(train={"steps": 2}), tmp_path / "runs/small")
    capsys.readouterr()
    assert said(capsys, "export small --no-ema --quiet") == (0, "small-2.safetensors\n", "")
    raw = safetensors.parse(bytearray(Path("small-2.safetensors").read_bytes()), run)
    assert read_model_info(Path("small-2.safetensors")).weights == "model"
    assert all(torch.equal(raw[name], value) for name, value in load(run, ema=False).network.state_dict().items())
    assert not all(torch.equal(raw[name], value) for name, value in load(run).network.state_dict().items())


# --- diffusers


def test_an_approximation_is_written_on_request_and_its_cost_is_a_number(tmp_path: Path, capsys) -> None:
    model = {"preset": "diffusers", "width": 32, "depth": 1, "heads": 2, "patch": 7, "frequency_shift": 0}
    write_model(tmp_path / "small.safetensors", **model)
    code, _, err = said(capsys, "export small.safetensors --format diffusers")
    assert code == 2 and "model.frequency_shift=0" in err and "--approximate fits the weights" in err
    code, out, err = said(capsys, "export small.safetensors --format diffusers --approximate")
    assert code == 0 and "approximated: on random inputs it differs by 0.0" in err
    assert diffusers.read(Path(out.strip())).info.config.model.frequency_shift == 1
    code, _, err = said(capsys, "export small.safetensors --approximate --out x.safetensors")
    assert code == 2 and "--approximate is for --format diffusers" in err


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_preset_trains_a_model_that_becomes_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    small = "--set model.width=32 --set model.depth=2 --set model.heads=2 --set data.validation=8"
    train = f"train mnist --set model.preset=diffusers {small} --steps 2 --batch-size 8 --quiet --name small"
    assert said(capsys, train)[0] == 0
    code, out, err = said(capsys, "export small --format diffusers")
    assert (code, out) == (0, "small-2-diffusers\n")
    assert 'DiTPipeline.from_pretrained("small-2-diffusers")' in err and 'get_label_ids(["0"])' in err
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained("small-2-diffusers")
    (image,) = pipeline(pipeline.get_label_ids(["7"]), num_inference_steps=2).images
    assert image.size == (28, 28) and image.mode == "L"
    assert diffusers.read(Path("small-2-diffusers")).info.labels == tuple("0123456789")


def test_a_pipeline_replaces_only_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "small.safetensors", preset="diffusers")
    line = "export small.safetensors --format diffusers --out p"
    assert said(capsys, line)[0] == 0
    Path("p/note.txt").write_text("mine", encoding="utf-8")
    code, _, err = said(capsys, line)
    assert code == 2 and "is there already" in err and "--force" in err
    assert said(capsys, f"{line} --force")[0] == 0 and not Path("p/note.txt").exists()
    Path("home").mkdir()
    Path("home/letter.txt").write_text("dear", encoding="utf-8")
    code, _, err = said(capsys, "export small.safetensors --format diffusers --out home --force")
    assert code == 2 and "no pipeline" in err and Path("home/letter.txt").is_file()
    Path("empty").mkdir()
    assert said(capsys, "export small.safetensors --format diffusers --out empty --force")[0] == 0
    for place in (".", "empty/.."):
        code, _, err = said(capsys, f"export small.safetensors --format diffusers --out {place} --force")
        assert code == 2 and "names no new folder" in err


# --- ONNX


@pytest.mark.extras
@needs_onnx
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_onnx_predicts_what_torch_predicts_for_every_batch(conditioning: str, tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "small.safetensors"
    info, network = write_model(path, conditioning=conditioning)
    assert onnx.write(info, load_network(info, path), tmp_path / "small.onnx") <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    assert ModelInfo.from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY], path) == info
    for batch in (1, 2, 5):
        x_BCHW, timestep_B = torch.randn(batch, 1, 28, 28), torch.rand(batch) * 1000
        label_B = torch.arange(batch) % 4
        inputs = {"x": x_BCHW.numpy(), "timestep": timestep_B.numpy(), "label": label_B.numpy()}
        (theirs,) = session.run(["prediction"], inputs)
        ours = network(x_BCHW, timestep_B, label_B)
        assert float(ours.std()) > 0.05 and float((torch.from_numpy(theirs) - ours).abs().max()) <= 1e-4


@pytest.mark.extras
@needs_onnx
def test_onnx_of_the_command_line_in_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "small.safetensors")
    code, out, err = said(capsys, "export small.safetensors --format onnx --dtype float16")
    assert (code, out) == (0, "small-40.onnx\n") and "onnxruntime and torch differ by" in err
    content = Path("small-40.onnx").read_bytes()
    assert len(content) < 0.9 * Path("small.safetensors").stat().st_size
    assert b".py" not in content and str(Path(__file__).parents[2]).encode() not in content
    code, _, err = said(capsys, "export small.safetensors --format onnx --dtype bfloat16 --out b.onnx")
    assert code == 2 and "bfloat16" in err and not Path("b.onnx").exists()


def test_onnx_without_its_packages_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "small.safetensors")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    code, _, err = said(capsys, "export small.safetensors --format onnx")
    assert code == 2 and "onnxruntime" in err and 'pip install "ditkit[onnx]"' in err


# --- mistakes and the disk


MISTAKES = {
    "export small.safetensors --format ckpt": "unknown format 'ckpt'",
    "export small.safetensors --dtype float8": "unknown dtype 'float8'",
    "export small.safetensors --out model.pt": "model.pt is not the name of a safetensors file",
    "export small.safetensors --format onnx --out model": "model is not the name of a onnx file",
    "export small.safetensors --out small.safetensors": "small.safetensors is there already",
    "export small.safetensors --format diffusers": "model.norm=rms",
    "export nothing": "there is no run 'nothing'",
}


def test_mistakes_are_found_before_torch_loads(tmp_path: Path) -> None:
    write_model(tmp_path / "small.safetensors")
    done = run_lines(list(MISTAKES), {"torch", "diffusers", "numpy"}, tmp_path)
    assert done == [(2, [])] * len(MISTAKES)


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_named_with_a_way_out(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "small.safetensors")
    code, out, err = said(capsys, line)
    assert (code, out) == (2, "") and MISTAKES[line] in err and "hint: " in err


def test_a_damaged_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info, network = write_model(tmp_path / "small.safetensors")
    tensors = network.state_dict() | {"label.weight": torch.zeros(9, 32)}
    atomic.write_atomically(tmp_path / "small.safetensors", safetensors.pieces(tensors, {METADATA_KEY: info.to_json()}))
    code, _, err = said(capsys, "export small.safetensors")
    assert code == 4 and "does not fit its own card" in err


def test_a_full_disk_is_said_and_the_old_file_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "small.safetensors")
    Path("out.safetensors").write_bytes(b"old")
    write, written = atomic.os.write, 0

    def full(descriptor: int, content: Any) -> int:
        nonlocal written
        written += len(content)
        if written > 50_000:
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "write", full)
        code, _, err = said(capsys, "export small.safetensors --out out.safetensors --force")
    assert code == 6 and "No space left on device" in err and "--out" in err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.safetensors", "small.safetensors"]
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"


def test_called_from_python_it_says_what_it_wrote_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    info, _ = write_model(Path("small.safetensors"))
    exported = export("small.safetensors", "half.safetensors", dtype="float16")
    assert (exported.path, exported.info) == (Path("half.safetensors"), info)
    assert exported.size == Path("half.safetensors").stat().st_size and exported.difference is None
    with pytest.raises(UsageError, match="is there already"):
        export("small.safetensors", "half.safetensors")
    assert capsys.readouterr() == ("", "")
    assert (complete.FORMATS, complete.WEIGHT_DTYPES) == (FORMATS, DTYPES)
