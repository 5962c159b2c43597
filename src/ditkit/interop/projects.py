"""The projects that share the tensor names of Meta's DiT, and what a network of each predicts.

DiT (Peebles & Xie 2022) is a diffusion. SiT (Ma et al. 2024) and LightningDiT (Yao & Wang 2025) are flows whose t is 1
for data and 0 for noise, and whose velocity is data minus noise. REPA (Yu et al. 2024) trains SiT's network the other
way round, which is ditkit's own: t is 1 for noise, the velocity is noise minus data. The tensors do not differ, so the
arguments that a training stored decide, or whoever imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, UsageError
from .diffusers_scheduler import linear_ends
from .stated import Stated

if TYPE_CHECKING:
    from torch import Tensor

ORIGINAL = "original"
ORIGINS = {"dit": "Meta's DiT", "sit": "SiT", "repa": "REPA's SiT", "lightningdit": "LightningDiT"}
PROJECTS = (*ORIGINS, ORIGINAL)  # as --project takes them
_PREDICTION = ("prediction", "prediction_type", "pred_type", "parameterization")
_OBJECTIVES = {  # what diffusions call their predictions
    **dict.fromkeys(("epsilon", "eps", "pred_noise", "pred_eps"), "epsilon"),
    **dict.fromkeys(("sample", "x0", "x_start", "xstart", "pred_x0", "pred_xstart"), "x0"),
    **dict.fromkeys(("v_prediction", "pred_v"), "v"),
}
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
    tensors: Mapping[str, Tensor], stated: Stated, betas: Sequence[float] | None, path: Path, project: str | None
) -> Meaning:
    """What the network in a file predicts.

    Args:
        tensors: of the network.
        stated: what the file says beside it.
        betas: its noise schedule, where it keeps it.
        path: of the file, for its name and for errors.
        project: one of PROJECTS where the user says it, which counts more than all else.

    Raises UsageError where it has to be asked, CheckpointError for a process that ditkit does not have.
    """
    learned = _learns_variance(tensors)
    is_diffusion = bool(betas) or learned or _states_diffusion(stated)
    word, note = (project, "") if project else _project(tensors, stated, path, is_diffusion=is_diffusion)
    if word == "dit":
        settings = _diffusion(stated, betas, path, learned=learned)
        return Meaning(origin=ORIGINS[word], diffusion=settings, note=note)
    flow = _flow(word, stated, path)
    return Meaning(origin=ORIGINS[word], diffusion=flow, is_reversed=word != "repa", note=note)


def _project(tensors: Mapping[str, Tensor], stated: Stated, path: Path, *, is_diffusion: bool) -> tuple[str, str]:
    """(project, what was assumed): by what the file says, else by its tensors, else by its name."""
    if (word := _stated_project(stated, path)) is not None:
        return word, ""
    if any(name.startswith("projectors.") for name in tensors):
        return "repa", ""
    if is_diffusion:
        return "dit", ""
    name = path.name.lower()
    if re.search(r"(?<![a-z])sit(?![a-z])", name) and "dit" not in name:
        return "sit", "it is a flow of SiT's, by its name; if it predicts noise: --project dit"
    if _is_doubled(tensors):
        why = "half of its output channels were never used"
        return "sit", f"it is a flow of SiT's, as {why}; if it predicts noise: --project dit"
    return "dit", "it predicts noise; if it is a flow: --project sit (t = 1 is data) or repa (t = 1 is noise)"


def _stated_project(stated: Stated, path: Path) -> str | None:
    """By the arguments of its training; None where they say nothing."""
    kind, model = (stated.text(name) or "" for name in ("model_type", "model"))
    route, prediction = stated.text("path_type"), stated.text(*_PREDICTION) or ""
    if kind.startswith("LightningDiT") or model.startswith("LightningDiT"):
        return "lightningdit"
    if stated.text("enc_type") or stated.number("proj_coeff") is not None or route in ("linear", "cosine"):
        return "repa"  # which spells its paths small
    if route or model.startswith("SiT"):
        return "sit"
    if prediction and prediction.lower() not in _OBJECTIVES:
        raise UsageError(
            f"{path} says that it predicts {prediction}, but not on which path",
            "say whose training it is: --project dit, sit (t = 1 is data) or repa (t = 1 is noise)",
        )
    return None


def _states_diffusion(stated: Stated) -> bool:
    """Whether arguments of its training are those of a diffusion; a network called DiT may be a flow as well."""
    says = (stated.text("noise_schedule", "beta_schedule"), stated.count("diffusion_steps"), stated.text(*_PREDICTION))
    return any(says) or stated.flag("predict_xstart", "predict_x_start") is not None


def _is_doubled(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the network has twice as many output channels as input channels."""
    return len(tensors["final_layer.linear.weight"]) == 2 * tensors["x_embedder.proj.weight"][0].numel()


def _learns_variance(tensors: Mapping[str, Tensor]) -> bool:
    """Whether it has output channels for the variance, as DiT has; training leaves those of a SiT at zero."""
    if not _is_doubled(tensors):
        return False
    rows, channels = tensors["final_layer.linear.weight"], tensors["x_embedder.proj.weight"].shape[1]
    first, second = rows.view(-1, 2, channels, rows.shape[1]).unbind(1)
    return bool(second.any()) or not bool(first.any())


def _diffusion(stated: Stated, betas: Sequence[float] | None, path: Path, *, learned: bool) -> dict[str, Any]:
    """Of DiT's training: noise of linear betas, and the variance where the network has channels for it."""
    schedule, count = stated.text("noise_schedule", "beta_schedule") or "linear", stated.count("diffusion_steps")
    scale = 1000 / (count or 1000)  # betas are those of 1000 steps, scaled (Nichol & Dhariwal 2021)
    ends = linear_ends(betas or (1e-4 * scale, 2e-2 * scale))
    count = len(betas) if betas else count or 1000
    if schedule != "linear" or ends is None:
        kind = f"a noise schedule {schedule}" if schedule != "linear" else "betas of its own, which are not linear"
        raise CheckpointError(f"{path} was trained with {kind}", "ditkit has linear betas")
    objective = _OBJECTIVES.get((stated.text(*_PREDICTION) or "epsilon").lower())
    if objective is None:
        raise CheckpointError(
            f"{path} is a diffusion that predicts {stated.text(*_PREDICTION)}", "ditkit has noise, x0 and v"
        )
    if stated.flag("predict_xstart", "predict_x_start"):
        objective = "x0"
    is_usual = (count, *ends) == (1000, 1e-4, 2e-2)
    return {
        "process": "diffusion",
        "objective": "learned-sigma" if learned and objective == "epsilon" else objective,
        **({} if is_usual else {"timesteps": count, "beta_start": ends[0], "beta_end": ends[1]}),
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
