"""What tests of the command line share: run folders without tensors, and a line's exit code and output."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ditkit import recipes
from ditkit.cli import app
from ditkit.io import atomic
from ditkit.runs import manifest
from ditkit.runs.model_info import METADATA_KEY, ModelInfo, read_model_info

FLAGS = {
    "train": "--steps --max-time --batch-size --lr --seed --data-dir --label-by --label-file --image-size "
    "--autoencoder --config --set --name --runs-dir --fresh --yes --sample-every --evaluate-every "
    "--keep-every --snapshot-every --track --force-change --shard --preempt-signal --dry-run "
    "--label-from --quiet --device --dtype --kernels --threads --compile --grad-checkpointing --init-from --debug",
    "estimate": "--steps --batch-size --data-dir --label-by --label-file --image-size --autoencoder --config "
    "--set --sample-every --keep-every --device --dtype --no-probe --runs-dir --json --label-from "
    "--quiet --debug",
    "sample": "--autoencoder --autoguide --labels --steps --guidance --guidance-interval --sampler --reuse --seed "
    "--model --ema --no-ema --out --force --yes --json --runs-dir --device --backend --batch-size --apg "
    "--dtype --kernels --guidance-rescale --npz --quiet --debug",
    "evaluate": "--autoguide --samples --features --neighbours --steps --guidance --guidance-interval --sampler "
    "--reuse --seed --ema --no-ema --data-dir --out --yes --json --runs-dir --device --dtype --kernels --batch-size "
    "--apg --autoencoder --guidance-rescale --labels-as --npz --quiet --debug",
    "sweep": "--labels --guidance --steps --sampler --reuse --seed --samples --features --ema --no-ema --data-dir "
    "--out --force --yes --json --runs-dir --device --dtype --kernels --batch-size --autoencoder --labels-as --quiet "
    "--debug",
    "lr-find": "--label-by --label-file --image-size --autoencoder --yes --config --set --data-dir --batch-size "
    "--seed --steps --device --out --force --runs-dir --json --label-from --quiet --debug",
    "plot-loss": "--log --by-noise --smooth --terminal --out --force --runs-dir --quiet --debug",
    "report": "--out --force --runs-dir --quiet --debug",
    "compare": "--labels --seed --no-ema --out --force --json --runs-dir --device --dtype --kernels --autoencoder "
    "--quiet --debug",
    "make-gif": "--frames --kind --model --no-ema --labels --steps --guidance --sampler --seed --out --force "
    "--runs-dir --device --dtype --kernels --autoencoder --quiet --debug",
    "edit": "--debug",
    "edit inpaint": "--mask --labels --steps --guidance --sampler --seed --model --no-ema --out --force --yes "
    "--json --runs-dir --device --dtype --kernels --autoencoder --quiet --debug",
    "edit img2img": "--strength --labels --steps --guidance --sampler --seed --model --no-ema --out --force --yes "
    "--json --runs-dir --device --dtype --kernels --autoencoder --quiet --debug",
    "export": "--format --out --dtype --no-ema --autoencoder --force --runs-dir --json --approximate --quiet --debug",
    "data": "--debug",
    "data show": "--data-dir --label-by --label-file --image-size --limit --config --set --runs-dir --out --force "
    "--json --label-from --quiet --debug",
    "data reconstruct": "--data-dir --label-file --image-size --autoencoder --count --config --set --runs-dir "
    "--out --force --device --json --quiet --debug",
    "data list": "--json --debug",
    "data remove": "--all --unfinished --yes --json --quiet --debug",
    "import": "--as --set --runs-dir --force --yes --json --autoencoder --class-names --project --state-dict "
    "--quiet --debug",
    "hub": "--debug",
    "hub push": "--private --message --dtype --data-licence --yes --dry-run --runs-dir --quiet --debug",
    "hub pull": "--as --yes --runs-dir --quiet --debug",
    "show": "--runs-dir --debug",
    "list": "--debug",
    "doctor": "--try --device --json --runs-dir --debug",
}


def write_weights(path: Path, *, labels: tuple[str, ...] = ("cat", "dog"), recipe: str = "mnist") -> Path:
    """A weights file without tensors: the card is all that the command line reads before torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = ModelInfo(config=recipes.load(recipe), labels=labels, step=100)
    header = json.dumps({"__metadata__": {METADATA_KEY: info.to_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def write_run(runs: Path, name: str = "pets", recipe: str = "mnist") -> Path:
    """A run folder with one checkpoint, as far as anything can tell without torch."""
    folder = runs / name
    write_weights(folder / "checkpoints/step-0000100/ema.safetensors", recipe=recipe)
    checkpoint = folder / "checkpoints/step-0000100"
    for name in manifest.FILES:
        (checkpoint / name).touch()
    files = {name: atomic.describe((checkpoint / name).read_bytes()) for name in manifest.FILES}
    (checkpoint / manifest.NAME).write_bytes(manifest.write(100, files))
    (folder / "config.toml").write_text(recipes.dump(recipes.load(recipe)), encoding="utf-8")
    rows = [json.dumps({"step": step, "loss": 1.0 / step}) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command line; paths with /, also on Windows."""
    code = app.main(line.split())
    captured = capsys.readouterr()
    return code, captured.out.replace(os.sep, "/"), captured.err.replace(os.sep, "/")


def refused(capsys: pytest.CaptureFixture[str], line: str, code: int, *words: str) -> str:
    """What a command line says on stderr that must end with this code, one error with such words, and one hint."""
    exit_code, out, err = said(capsys, line)
    assert (exit_code, out) == (code, ""), err
    assert [text.partition(":")[0] for text in err.splitlines()] == ["error", "hint"], err
    assert all(word in err for word in words), err
    return err


def draw_black(patch: pytest.MonkeyPatch) -> None:
    """Black squares instead of what a network would draw, of which a thousand at most; no weights are loaded."""
    import numpy as np

    from ditkit.kernels.choice import EAGER
    from ditkit.sampling.generate import Sample

    def sample(_trained: Any, labels: Sequence[str], **_: Any) -> list[Sample]:
        assert len(labels) <= 1000, "heavy work"
        return [Sample(np.zeros((4, 4, 1), np.uint8), label, 0) for label in labels]

    def load(source: Path, **_: Any) -> SimpleNamespace:
        codec = SimpleNamespace(to_images=lambda x_BCHW: x_BCHW)
        return SimpleNamespace(info=read_model_info(source), codec=codec, compute=EAGER)

    patch.setattr("ditkit.sampling.request.draw", lambda order, device, **_: sample(None, order.labels))
    patch.setattr("ditkit.sampling.generate.sample", sample)
    patch.setattr("ditkit.checkpoint.loading.load", load)


def walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, and those of groups after their group."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        yield from walk(command, f"{prefix}{name} ") if hasattr(command, "commands") else ()
