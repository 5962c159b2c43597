"""What does a change of the `mnist` recipe gain at equal cost? One training under a budget of CPU time, then judged.

    python benchmarks/recipe_search.py --cpu-seconds 150 [--samples 500] [--guidance 1.42] [SECTION.KEY=VALUE ...]

Words are settings as `ditkit train --set` takes them, on top of the recipe. One thread; the learning rate falls
linearly with the CPU time that is spent, so that every trial ends its schedule whatever its steps cost. Prints one
line: steps, CPU time a step, label accuracy and Fréchet ratio (see `mnist_quality.py`). Ratios of different --samples
are not comparable: the yardstick is the distance of as many real images.
"""

# ruff: noqa: E402 (memory is kept before torch is imported)
from __future__ import annotations

import argparse
import time
from dataclasses import replace

from ditkit.threads import keep_memory

keep_memory()

import torch
from mnist_classifier import DEFAULT_OUT, features_and_labels, mnist_folder, read_mnist
from mnist_quality import CLASSES, Quality, classifier_at, judge, real_reference
from torch import Tensor, nn

from ditkit import checkpoint, optim, recipes
from ditkit.config import RunConfig
from ditkit.ema import Ema
from ditkit.objectives.contract import open_objective
from ditkit.sampling import draw
from ditkit.seeding import generator
from ditkit.steps import drop_labels


def train(config: RunConfig, images_N1HW: Tensor, label_N: Tensor, seconds: float) -> tuple[nn.Module, int]:
    """The EMA network after so many CPU seconds, and the steps that they were enough for."""
    network = checkpoint.build_network(config, CLASSES)
    network.initialize(generator(config.seed, "weights"))
    objective, ema = open_objective(config.diffusion), Ema(network, config.optim.ema_decay)
    optimizer = optim.adamw(network, config.optim)
    chance, batch, order, step = torch.Generator().manual_seed(1), config.train.batch_size, torch.empty(0), 0
    began = time.process_time()
    while (left := 1 - (time.process_time() - began) / seconds) > 0:
        if len(order) < batch:
            order = torch.randperm(len(images_N1HW), generator=chance)
        chosen, order = order[:batch], order[batch:]
        x_BCHW = images_N1HW[chosen]
        label_B = drop_labels(label_N[chosen], CLASSES, config.diffusion.label_drop, config.seed, step)
        timestep_B = objective.draw_timesteps(batch, chance)
        noise_BCHW = torch.randn(x_BCHW.shape, generator=chance)
        objective.loss_at(network, x_BCHW, label_B, timestep_B, noise_BCHW).mean().backward()
        optim.clip(network, config.optim.clip, optim.norm(network))
        optim.set_rate(optimizer, config.optim.lr * left * min(1.0, (step + 1) / max(1, config.optim.warmup_steps)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(network, step)
    return ema.network, step


def judged(config: RunConfig, network: nn.Module, images_N1HW: Tensor, label_N: Tensor, samples: int) -> Quality:
    """What the classifier says of samples, an equal number of each label."""
    classifier = classifier_at(DEFAULT_OUT)
    features, _ = features_and_labels(classifier, images_N1HW)
    asked_N = torch.arange(samples) % CLASSES
    drawn = draw(
        network,
        config.diffusion,
        shape=config.shape,
        labels=asked_N.tolist(),
        null_label=CLASSES,
        seeds=range(samples),
        settings=config.sample,
        device="cpu",
    )
    bytes_N1HW = ((drawn.clamp(-1, 1) + 1) * 127.5).round()
    return judge(
        bytes_N1HW / 127.5 - 1, asked_N, classifier, real_reference(features, label_N, per_class=samples // CLASSES)
    )


def main() -> None:
    """One trial, one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--cpu-seconds", type=float, default=150)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=1.42)
    parser.add_argument("--steps", type=int, default=12, help="network calls a sample, the guided ones counted once")
    words = parser.parse_args()
    torch.set_num_threads(1)
    config = recipes.build(recipes.tree("mnist"), recipes.merge_settings(words.settings))
    config = replace(config, sample=replace(config.sample, guidance=words.guidance, steps=words.steps))
    images, labels = read_mnist(mnist_folder(), "train")
    network, steps = train(config, images, labels, words.cpu_seconds)
    quality = judged(config, network, images, labels, words.samples)
    print(
        f"{' '.join(words.settings) or 'the recipe'}: {steps} steps of {1000 * words.cpu_seconds / steps:.0f} ms, "
        f"{quality.label_accuracy:.1%}, ratio {quality.ratio:.2f} ({words.samples} samples)"
    )


if __name__ == "__main__":
    main()
