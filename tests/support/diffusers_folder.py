"""DiTPipeline folders as diffusers itself writes them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from autoencoders import write_kl, write_tiny


def randomized(network: torch.nn.Module, std: float = 0.08) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)


def write_stock(folder: Path, *, kind: str = "kl", scheduler: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A DiTPipeline as diffusers itself builds and saves it, with random weights."""
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    class_, make = {"kl": (AutoencoderKL, write_kl), "tiny": (AutoencoderTiny, write_tiny)}[kind]
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "sample_size": 4}
    network = DiTTransformer2DModel(**{**sizes, "in_channels": 4, "out_channels": 8, "patch_size": 2, **changes})
    randomized(network)
    first = network.transformer_blocks[0].norm1.emb
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    vae = class_.from_pretrained(make(folder.with_name("vae"), channels=4))
    names = {"0": "tench, Tinca tinca", "1": "crane", "2": "crane", "3": "goldfish, Carassius auratus"}
    schedule = DDIMScheduler(**{"clip_sample": False, **(scheduler or {})})
    DiTPipeline(network, vae, schedule).save_pretrained(folder)
    edit(folder / "model_index.json", id2label=names)  # which diffusers reads, but does not save
    return folder


def edit(path: Path, **changes: Any) -> None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**tree, **changes}), encoding="utf-8")
