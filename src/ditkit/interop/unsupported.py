"""Networks that ditkit does not have, by the names and shapes of their tensors; and tensors that no network needs.

Many networks grew out of Meta's DiT and kept its names, so that a file may hold all of a DiT's tensors and something
more. What stands apart from the network (a head used only in training, an autoencoder) is left out and named; what
changes what it computes is refused by the architecture's name; of the rest nobody can know, and it is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .state_dicts import tables
from .unpickle import Unread

KNOWN = (
    "ditkit reads ckpt.pt of the original project, Meta's DiT and SiT, folders of diffusers' DiTPipeline, and its own "
    ".safetensors"
)
_OTHERS = {  # part of a tensor's name: what the model is
    "model.diffusion_model.input_blocks.": "a U-Net of Stable Diffusion's kind",
    "input_blocks.": "a U-Net of guided-diffusion's kind",
    "init_conv.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "downs.0.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "inner_model.": "a model of k-diffusion, which is a U-Net or another transformer",
    "mapping.": "a model of k-diffusion, which is a U-Net or another transformer",
    "feat_rope": "a LightningDiT, which has rotary positions",
    "joint_blocks.": "a transformer of Stable Diffusion 3's kind",
    "double_blocks.": "a transformer of FLUX's kind",
    "in_blocks.": "a U-ViT",
    "diffloss.": "a MAR, an autoregressive model with a small diffusion model",
    "scale_shift_table": "a PixArt, which is conditioned on text",
    "transformer_blocks.": "a transformer of diffusers: give the folder of its whole pipeline, with model_index.json",
    "down_blocks.": "a U-Net or an autoencoder of diffusers",
    "encoder.down.": "an autoencoder of latent-diffusion",
    "_flat_param": "a part of a model of FSDP, whose tensors are one: save its full state dict",
    "lora_": "a LoRA, which changes another model: merge them, and import the result",
}
_CHANGED = {  # part of a tensor's name in a DiT of Meta's: whose network it is, and what it computes in another way
    r"feat_rope|\brope\b|freqs_(cos|sin)": "LightningDiT or another DiT with rotary positions",
    r"mlp\.w(12|1|2|3)\.": "a DiT with SwiGLU, as LightningDiT is",
    r"\battn\.(q_norm|k_norm|norm)\.": "a DiT whose queries and keys are normalised",
    r"cross_attn|caption|context_embed|\by_proj": "a DiT that is conditioned on text, as PixArt is",
    r"decoder_(blocks|embed|pos_embed|layer)|mask_token": "MaskDiT or another masked DiT, which has a second decoder",
    r"sideblocks|rel_pos_bias": "MDT, which has side blocks",
    r"skip_linear": "a DiT with long skip connections",
    r"\bnorm[12]?\.(weight|bias)|norm_final\.(weight|bias)": "a DiT whose normalisations have weights of their own",
    r"\bgamma\d?\b|lambda|layer_?scale|\bls[12]\b": "a DiT with scales of its own in each block, as DiffFit adds them",
    r"experts?\.|\bgate\.weight": "a mixture of experts",
    r"_scale\b|scales?$|zero_point|absmax|quant": "a quantised network",
    r"lora_": "a DiT with a LoRA beside the weights that it changes",
    r"w_embed|guidance_embed|r_embed": "a DiT that is conditioned on more than timestep and label",
}
_MERGE = "merge them first: in PEFT, `model.merge_and_unload().state_dict()` is what to save and to import"
_APART = re.compile(  # names of what stands beside a network, from their beginning
    r"(projectors?|proj_heads?|vae|autoencoder|first_stage_model|encoders?|text_encoder|discriminator|loss\w*|lpips|"
    r"perceptual\w*|criterion|logvar|betas|alphas\w*|sqrt_\w*|log_one_\w*|posterior_\w*|lvlb_weights|n_averaged|initted|"
    r"step|decay|num_updates|optimizer|scheduler|ema|model_ema)\b"
)


def without_extras(tensors: Mapping[str, Tensor], known: str, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A network's tensors without those that stand apart from it, and a line that names these, if there are any.

    `known` is a pattern of the names that belong to it. Raises CheckpointError for a tensor that is neither.
    """
    extras = [name for name in tensors if not re.fullmatch(known, name)]
    for pattern, kind in _CHANGED.items():
        if names := [name for name in extras if re.search(pattern, name) and not _APART.match(name)]:
            hint = _MERGE if "LoRA" in kind else KNOWN
            raise CheckpointError(f"{path} is {kind} ({_named(names)}), which ditkit does not have", hint)
    if unknown := [name for name in extras if not _APART.match(name)]:
        raise CheckpointError(
            f"{path} is like a network that ditkit knows, but {len(unknown)} of its tensors do not belong to that "
            f"({_named(unknown)})",
            "it is another network, which ditkit does not have; or save it without these",
        )
    notes = (f"left out, because they are no part of the network: {_named(extras)}",) if extras else ()
    return {name: value for name, value in tensors.items() if name not in extras}, notes


def describe(tree: Any) -> str:
    """What a model is that ditkit does not read, as far as the names of its tensors show."""
    names = [str(name) for _, table in tables(tree) for name, value in table.items() if isinstance(value, Tensor)]
    for mark, kind in _OTHERS.items():
        if any(name.startswith(mark) or f".{mark}" in name for name in names):
            return kind
    if not names:
        objects = sorted({value.name for _, table in tables(tree) for value in table.values() if _is_object(value)})
        rest = f", but {_named(objects)}, which ditkit neither imports nor calls" if objects else ""
        return f"no model: it holds no tensors by name{rest}"
    return f"no model that ditkit knows; it has tensors like {_named(names)}"


def _is_object(value: Any) -> bool:
    return isinstance(value, Unread)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
