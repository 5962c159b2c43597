"""What a training image costs in latents and in pixels: the same transformer at 128x128, side by side in one process.

    python benchmarks/latent_cost.py --autoencoder FOLDER

Pixels are cut into patches of 4 (1,024 tokens), latents of 16x16 into patches of 2 (64 tokens). Steps are whole ones
(forward, loss, backward, AdamW, EMA), of both in turn; figures are medians of CPU time. Encoding, which is done once
per image, is measured too.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ditkit import optim, recipes
from ditkit.autoencoders.contract import open_autoencoder
from ditkit.autoencoders.files import settings
from ditkit.config import RunConfig
from ditkit.ema import Ema
from ditkit.objectives.contract import open_objective
from ditkit.runtime.noise import draw_noise_and_timesteps
from ditkit.training.init_weights import fresh_network

PIXELS = {"data": {"image_size": 128}, "model": {"preset": "dit-tiny/4", "depth": 6}}
LATENTS = {"data": {"image_size": 128}, "model": {"preset": "dit-tiny/2", "depth": 6}}


class Side:
    """Pixels or latents: a network ready to take steps."""

    def __init__(self, config: RunConfig, batch_size: int):
        self.network = fresh_network(config, 2, torch.device("cpu"))
        self.objective, self.optimizer = open_objective(config.diffusion), optim.adamw(self.network, config.optim)
        self.ema = Ema(self.network, config.optim.ema_decay)
        self.x_BCHW = torch.randn(batch_size, *config.shape)
        self.label_B, self.taken, self.seconds = torch.zeros(batch_size, dtype=torch.int64), 0, list[float]()
        self.tokens = config.shape[1] * config.shape[2] // config.model.patch**2

    def step(self) -> None:
        start = time.process_time()
        timestep_B, noise_BCHW = draw_noise_and_timesteps(self.objective, self.x_BCHW.shape, 0, "noise", self.taken)
        self.objective.loss_at(self.network, self.x_BCHW, self.label_B, timestep_B, noise_BCHW).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        self.ema.update(self.network, self.taken)
        self.seconds.append((time.process_time() - start) / len(self.x_BCHW))

    @property
    def per_image(self) -> float:
        return statistics.median(self.seconds[1:]) * 1000  # ms; the first step warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--autoencoder", default="taesd3", help="a name, a folder or a hub repository")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    configs = {
        "pixels": recipes.load("celeba", PIXELS),
        "latents": recipes.load("celeba", {**LATENTS, "autoencoder": settings(options.autoencoder)}),
    }
    sides = {name: Side(config, options.batch_size) for name, config in configs.items()}
    for _ in range(options.steps + 1):
        for side in sides.values():
            side.step()
    for name, side in sides.items():
        print(f"{name:8} {side.tokens:5} tokens  {side.per_image:8.1f} ms of CPU time per image")
    print(f"ratio    {sides['pixels'].per_image / sides['latents'].per_image:.1f}")
    autoencoder = open_autoencoder(configs["latents"])
    image_BCHW = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        autoencoder.encode(image_BCHW)
        start = time.process_time()
        autoencoder.encode(image_BCHW)
    print(f"encoding {(time.process_time() - start) / 4 * 1000:.1f} ms of CPU time per image, once")


if __name__ == "__main__":
    main()
