"""What does a change of a recipe gain at equal cost? Train once within a budget of CPU time, then judge.

    python benchmarks/recipe_search.py --cpu-seconds 150 [--samples 500] [SECTION.KEY=VALUE ...]
    python benchmarks/recipe_search.py --recipe celeba --data-dir FOLDER --cpu-seconds 600 [SECTION.KEY=VALUE ...]

The arguments are settings as `ditkit train --set` takes them, on top of the recipe. One thread computes. The learning
rate falls linearly with the CPU time spent, so that every trial completes its schedule whatever its steps cost; with
--stay 0.7 it is constant for 0.7 of the time and then falls. --muon: Muon for the matrices of the blocks (see
`muon.py`). --contrast 0.05: contrastive flow matching. Prints one line: steps, CPU time per step, label accuracy and
Fréchet ratio (see `mnist_quality.py`). Ratios for different --samples are not comparable, because each is relative to
the distance of as many real images.
"""

# ruff: noqa: E402 (memory is set up before torch is imported)
from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from ditkit import optim, recipes
from ditkit.checkpoint import loading
from ditkit.config import DiffusionConfig, RunConfig
from ditkit.ema import Ema
from ditkit.objectives.contract import Network, open_objective, over_image
from ditkit.objectives.regression import Regression
from ditkit.runtime.threads import keep_memory
from ditkit.sampling.generate import draw
from ditkit.seeding import generator
from ditkit.training.step import drop_labels

keep_memory()

import torch
from judges import Judge, open_judge
from mnist_quality import Quality
from muon import muon_and_adamw
from torch import Tensor, nn


class Contrastive(Regression):
    """x0 of a flow; its velocity is pushed away from that of another image and noise (Stoica et al. 2025, ΔFM)."""

    def __init__(self, config: DiffusionConfig, contrast: float):
        """`contrast`: lambda, the weight of the wrong velocity's term; the right one's is 1."""
        super().__init__("x0", config)
        self._contrast = contrast

    def loss_at(
        self, network: Network, x_BCHW: Tensor, label_B: Tensor, timestep_B: Tensor, noise_BCHW: Tensor
    ) -> Tensor:
        """Weighted squared error (B,); the other image and noise are those of the next sample."""
        signal_B, noise_B = self.process.signal_noise(timestep_B)
        level = over_image(noise_B)
        output_BCHW = network(over_image(signal_B) * x_BCHW + level * noise_BCHW, timestep_B, label_B).float()
        velocity_BCHW = noise_BCHW - x_BCHW
        wrong_BCHW = x_BCHW + level * (velocity_BCHW - velocity_BCHW.roll(1, 0))  # the x0 that has the other velocity
        right_B, wrong_B = (
            self.weighted_error(output_BCHW, target_BCHW, noise_BCHW, signal_B, noise_B)
            for target_BCHW in (x_BCHW, wrong_BCHW)
        )
        return right_B - self._contrast * wrong_B


def train(
    config: RunConfig, judge: Judge, seconds: float, stay: float = 0.0, *, muon: bool = False, contrast: float = 0.0
) -> tuple[nn.Module, int]:
    """The EMA network after `seconds` of CPU time, and the number of steps done in it."""
    network = loading.build_network(config, judge.classes)
    network.initialize(generator(config.seed, "weights"))
    objective = Contrastive(config.diffusion, contrast) if contrast else open_objective(config.diffusion)
    ema = Ema(network, config.optim.ema_decay)
    optimizers = muon_and_adamw(network, config.optim) if muon else [optim.adamw(network, config.optim)]
    chance, batch, order, step = torch.Generator().manual_seed(1), config.train.batch_size, torch.empty(0), 0
    began = time.process_time()
    while (left := 1 - (time.process_time() - began) / seconds) > 0:
        if len(order) < batch:
            order = torch.randperm(len(judge.label_N), generator=chance)
        chosen, order = order[:batch], order[batch:]
        x_BCHW = judge.image_NCHW[chosen]
        if config.data.flip:
            mirrored_B = torch.rand(batch, generator=chance) < 0.5
            x_BCHW = torch.where(mirrored_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)
        label_B = drop_labels(judge.label_N[chosen], judge.classes, config.diffusion.label_drop, config.seed, step)
        timestep_B = objective.draw_timesteps(batch, chance)
        noise_BCHW = torch.randn(x_BCHW.shape, generator=chance)
        objective.loss_at(network, x_BCHW, label_B, timestep_B, noise_BCHW).mean().backward()
        optim.clip(network, config.optim.clip, optim.norm(network))
        share = min(1.0, left / (1 - stay)) * min(1.0, (step + 1) / max(1, config.optim.warmup_steps))
        for optimizer in optimizers:
            optim.set_rate(optimizer, config.optim.lr * share)
            optimizer.step()
        network.zero_grad(set_to_none=True)
        step += 1
        ema.update(network, step)
    return ema.network, step


def judge_samples(config: RunConfig, network: nn.Module, judge: Judge, samples: int) -> Quality:
    """Quality of samples, an equal number of each label, by the classifier."""
    label_N = torch.arange(samples) % judge.classes
    drawn = draw(
        network,
        config.diffusion,
        shape=config.shape,
        labels=label_N.tolist(),
        null_label=judge.classes,
        seeds=range(samples),
        settings=config.sample,
        device="cpu",
    )
    return judge.judge(drawn, label_N)


def main() -> None:
    """Run one trial and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--cpu-seconds", type=float, default=150)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--guidance", type=float, help="(default: 1.42 for mnist, the recipe's for celeba)")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps")
    parser.add_argument("--stay", type=float, default=0.0, help="share of the time at the full learning rate")
    parser.add_argument("--muon", action="store_true", help="for the matrices of the blocks")
    parser.add_argument("--contrast", type=float, default=0.0, help="lambda of contrastive flow matching")
    parser.add_argument("--recipe", choices=("mnist", "celeba"), default="mnist")
    parser.add_argument("--data-dir", type=Path, help="CelebA, as `ditkit train celeba` takes it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = recipes.build(recipes.tree(arguments.recipe), recipes.merge_settings(arguments.settings))
    guidance = arguments.guidance or (1.42 if arguments.recipe == "mnist" else config.sample.guidance)
    config = replace(config, sample=replace(config.sample, guidance=guidance, steps=arguments.steps))
    judge = open_judge(arguments.recipe, arguments.data_dir)
    network, steps = train(
        config, judge, arguments.cpu_seconds, arguments.stay, muon=arguments.muon, contrast=arguments.contrast
    )
    quality = judge_samples(config, network, judge, arguments.samples)
    options = [f"stay={arguments.stay}"] * bool(arguments.stay) + ["muon"] * arguments.muon
    options += [f"contrast={arguments.contrast}"] * bool(arguments.contrast)
    trial = " ".join([*options, *arguments.settings]) or "the recipe"
    print(
        f"{trial}: {steps} steps of {1000 * arguments.cpu_seconds / steps:.0f} ms, "
        f"{quality.label_accuracy:.1%}, ratio {quality.ratio:.2f} ({arguments.samples} samples)"
    )


if __name__ == "__main__":
    main()
