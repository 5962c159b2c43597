"""The projects that share the tensor names of Meta's DiT, and what a network of each predicts.

DiT (Peebles & Xie 2022) is a diffusion. SiT (Ma et al. 2024) and LightningDiT (Yao & Wang 2025) are flows whose t is 1
for data and 0 for noise, and whose velocity is data minus noise. REPA (Yu et al. 2024) trains SiT's network the other
way round, which is ditkit's own: t is 1 for noise, the velocity is noise minus data. The tensors do not differ, so the
arguments that a training stored decide, or whoever imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, UsageError
from .stated import Stated

if TYPE_CHECKING:
    from torch import Tensor

ORIGINAL = "original"
ORIGINS = {"dit": "Meta's DiT", "sit": "SiT", "repa": "REPA's SiT", "lightningdit": "LightningDiT"}
PROJECTS = (*ORIGINS, ORIGINAL)  # as --project takes them
_HAS = "ditkit has the linear path with prediction of velocity or noise"


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a network with DiT's tensors predicts."""

    origin: str
    diffusion: Mapping[str, Any]  # settings of the section [diffusion]
    is_reversed: bool = False  # its t is 1 for data, as SiT's
    note: str = ""  # what was assumed, in words

    @property
    def is_flow(self) -> bool:
        return self.diffusion["process"] == "flow"


def meaning_of(
    tensors: Mapping[str, Tensor], stated: Stated, path: Path, project: str | None, *, twice: bool
) -> Meaning:
    """What the network in a file predicts.

    Args:
        tensors: of the network.
        stated: what the file says beside it.
        path: of the file, for its name and for errors.
        project: one of PROJECTS where the user says it, which counts more than all else.
        twice: whether the network has twice as many output channels as input channels.

    Raises UsageError where it has to be asked, CheckpointError for a process that ditkit does not have.
    """
    word, note = (project, "") if project else _project(tensors, stated, path, twice=twice)
    if word == "dit":
        return Meaning(origin=ORIGINS[word], diffusion=_diffusion(stated, path, learned=twice), note=note)
    flow = _flow(word, stated, path)
    return Meaning(origin=ORIGINS[word], diffusion=flow, is_reversed=word != "repa", note=note)


def _project(tensors: Mapping[str, Tensor], stated: Stated, path: Path, *, twice: bool) -> tuple[str, str]:
    """(project, what was assumed): by what the file says, else by its tensors, else by its name."""
    if (word := _stated_project(stated, path)) is not None:
        return word, ""
    if any(name.startswith("projectors.") for name in tensors):
        return "repa", ""
    if twice:
        return ("sit" if _half_is_unused(tensors) else "dit"), ""
    name = path.name.lower()
    if re.search(r"(?<![a-z])sit(?![a-z])", name) and "dit" not in name:
        return "sit", "it is a flow of SiT's, by its name alone; if it predicts noise: --project dit"
    return "dit", "it predicts noise; if it is a flow: --project sit (t = 1 is data) or repa (t = 1 is noise)"


def _stated_project(stated: Stated, path: Path) -> str | None:
    """By the arguments of its training; None where they say nothing."""
    kind, model = (stated.text(name) or "" for name in ("model_type", "model"))
    route = stated.text("path_type")
    if kind.startswith("LightningDiT") or model.startswith("LightningDiT"):
        return "lightningdit"
    if stated.text("enc_type") or stated.number("proj_coeff") is not None or route in ("linear", "cosine"):
        return "repa"  # which spells its paths small
    if route or model.startswith("SiT"):
        return "sit"
    if stated.text("prediction"):
        raise UsageError(
            f"{path} says that it predicts {stated.text('prediction')}, but not on which path",
            "say whose training it is: --project dit, sit (t = 1 is data) or repa (t = 1 is noise)",
        )
    return "dit" if model.startswith("DiT") else None


def _half_is_unused(tensors: Mapping[str, Tensor]) -> bool:
    """Whether training left one half of the output channels at zero, as SiT's does, and not the other."""
    rows, channels = tensors["final_layer.linear.weight"], tensors["x_embedder.proj.weight"].shape[1]
    first, second = rows.view(-1, 2, channels, rows.shape[1]).unbind(1)
    return bool(first.any()) and not bool(second.any())


def _diffusion(stated: Stated, path: Path, *, learned: bool) -> dict[str, Any]:
    """Of DiT's training: noise of linear betas, and the variance where the network has channels for it."""
    schedule, steps = stated.text("noise_schedule", "beta_schedule") or "linear", stated.count("diffusion_steps")
    if schedule != "linear":
        raise CheckpointError(f"{path} was trained with a noise schedule {schedule}", "ditkit has linear betas")
    clean = stated.flag("predict_xstart", "predict_x_start") or False
    count = steps or 1000  # betas are those of 1000 steps, scaled (Nichol & Dhariwal 2021)
    return {
        "process": "diffusion",
        "objective": "x0" if clean else "learned-sigma" if learned else "epsilon",
        **({"timesteps": count, "beta_start": 0.1 / count, "beta_end": 20 / count} if count != 1000 else {}),
    }


def _flow(word: str, stated: Stated, path: Path) -> dict[str, Any]:
    """Of a flow's training: SiT's and LightningDiT's "Linear" and "velocity" or "noise", REPA's "linear" and "v"."""
    route, prediction = stated.text("path_type") or "linear", stated.text("prediction") or "velocity"
    objective = {"velocity": "velocity", "v": "velocity", "noise": "epsilon"}.get(prediction.lower())
    if route.lower() != "linear" or objective is None or (word == "repa" and objective != "velocity"):
        raise CheckpointError(f"{path} is a {ORIGINS[word]} of the {route} path that predicts {prediction}", _HAS)
    if stated.flag("latent_norm"):
        raise CheckpointError(
            f"{path} was trained on latents normalised by statistics that it does not hold (latent_norm)",
            "ditkit does not read such a model",
        )
    return {"process": "flow", "objective": objective, "timesteps": 1}
