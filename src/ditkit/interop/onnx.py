"""The denoiser as an ONNX file, (x, timestep, label) -> prediction, for any batch size; checked with onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MachineError
from ..io.atomic import FREE_SPACE, write_file
from ..models.dit import DiT
from ..runs.model_info import METADATA_KEY, ModelInfo
from ..seeding import generator
from .base import cast

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}  # relative to the largest prediction


class _Denoiser(nn.Module):
    """The network in any type, with float32 inputs and outputs."""

    def __init__(self, network: DiT, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        return self.network(x.to(self.dtype), timestep, label).float()


def write(info: ModelInfo, network: DiT, path: Path, dtype: torch.dtype = torch.float32) -> float:
    """Write the file, whole or not at all; returns by how much onnxruntime's prediction differs from torch's.

    Inputs: x float32 (B, C, H, W), timestep float32 (B), label int64 (B), the number of labels being the null label;
    output: prediction float32, (B, 2C, H, W) with learned sigma. ModelInfo is in its metadata. Changes the
    network's type. Raises MachineError for the disk or if they differ.
    """
    import onnxruntime  # which checks the file at the end: a broken one is to be found before

    cast(network.state_dict(), dtype)
    denoiser = _Denoiser(network.to(dtype), dtype).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    with _quiet():
        program: Any = torch.onnx.export(
            denoiser,
            _inputs(network, 2),
            dynamo=True,
            input_names=["x", "timestep", "label"],
            output_names=["prediction"],
            dynamic_shapes=(batch, batch, batch),
            external_data=False,
            verbose=False,
        )
    model = _without_origins(program.model_proto)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, info.to_json()
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _difference(session, denoiser, network)
    if not difference <= _TOLERANCE[dtype]:
        raise MachineError(
            f"onnxruntime predicts something else than torch (by {difference:.2g} of it)", "upgrade onnxruntime"
        )
    write_file(path, [content], FREE_SPACE)
    return difference


def _without_origins(model: Any) -> Any:
    """The graph without the source lines, with paths of this machine, of each node: half of a small file."""
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        for part in (graph.node, graph.value_info, getattr(graph, "initializer", ()), getattr(graph, "input", ())):
            for entry in part:
                if hasattr(entry, "metadata_props"):
                    del entry.metadata_props[:]
    return model


def _inputs(network: DiT, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs, the null label among them."""
    (h, w), P = network.grid, network.config.patch
    source = generator(0, "onnx", batch)
    x_BCHW = torch.randn(batch, network.channels, h * P, w * P, generator=source)
    label_B = (network.classes - torch.arange(batch)) % (network.classes + 1)
    return x_BCHW, torch.rand(batch, generator=source) * 999, label_B


def _difference(session: Any, denoiser: nn.Module, network: DiT) -> float:
    """The largest difference, relative to the largest value, for two batch sizes other than the traced one."""
    worst = 0.0
    for batch in (1, 3):
        inputs = _inputs(network, batch)
        names = ("x", "timestep", "label")
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        result = torch.from_numpy(session.run(None, arrays)[0])
        with torch.inference_mode():
            expected = denoiser(*inputs)
        worst = max(worst, float((result - expected).abs().max() / expected.abs().max().clamp(min=1)))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch logs and warns of while it exports."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
