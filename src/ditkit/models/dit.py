"""The DiT (Peebles & Xie 2022), read once from top to bottom.

Notable features:
- the paper's four conditionings (blocks.py), adaLN-Zero by default: a fresh network predicts 0, each block the identity
- fixed sine-cosine positions; with `rope` rotary ones too, in every attention (Su et al. 2021)
- layer or RMS norm, GELU or SwiGLU, QK norm, as ModelConfig says (layers.py)
- the null label is one more row of the label table, for classifier-free guidance
- queries, keys and values in one product, as are all shifts, scales and gates of a block
- conditions and modulations in float32 under autocast; `recompute` trades time for memory
- `begin`, `stack`, `end` and `modulation_table` let a sampler reuse what does not change between its steps

B batch, T tokens, D width, C channels, H W image, h w patches, P patch, N timesteps, L labels, F modulation width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig
from ..errors import UsageError
from . import presets
from .blocks import AdaLNBlock, block, modulate, regressed
from .layers import FusedLinear, Norm, TimestepEmbedding, in_full_precision, position_table, rotary_table


class FinalLayer(nn.Module):
    """Norm and linear to patches of pixels; modulated by the condition in the adaLN variants only."""

    def __init__(self, config: ModelConfig, out_features: int):
        super().__init__()
        adaptive = config.conditioning.startswith("adaln")
        self.norm = Norm(config.norm, config.width, affine=not adaptive)
        self.modulation = nn.Linear(config.width, 2 * config.width) if adaptive else None
        self.linear = nn.Linear(config.width, out_features)

    def forward(self, x_BTD: Tensor, condition: Tensor | None) -> Tensor:
        x_BTD = self.norm(x_BTD)
        if self.modulation is not None and condition is not None:
            x_BTD = modulate(x_BTD, *regressed(self.modulation, condition, 2))
        return self.linear(x_BTD)


class DiT(nn.Module):
    """A DiT for images (or latents) of one size.

    Args:
        config: its width, depth, conditioning …
        channels: of the images; twice as many come out with learned sigma.
        size: (height, width), each divisible by the patch size, else UsageError is raised.
        classes: labels have the ids 0 .. classes-1; the null label, for classifier-free guidance and unconditional
            models, is `classes`.

    Timesteps run from 0 to `diffusion.timesteps`, which is 1000, also those of a flow: not from 0 to 1.

    `recompute` keeps only the input of each block for backward and computes the rest again: less memory, a third more
    time, the same gradients. Under autocast matrix products are reduced; conditions, modulations and the stream of
    tokens between the blocks stay float32.
    """

    def __init__(self, config: ModelConfig, *, channels: int, size: tuple[int, int], classes: int):
        super().__init__()
        if size[0] % config.patch or size[1] % config.patch:
            raise UsageError(
                f"size {size[0]}x{size[1]} is not divisible by the patch size {config.patch}", "change model.patch"
            )
        self.config, self.channels, self.classes = config, channels, classes
        self.recompute = False
        self.fast_blocks: Callable[..., Tensor] | None = None  # runs the blocks in another way: kernels.blocks
        self.autocast = torch.float32  # what those who draw let torch's autocast reduce products to
        self.grid = (size[0] // config.patch, size[1] // config.patch)
        self.out_channels = channels * 2 if config.learned_sigma else channels
        self.patch_in = nn.Linear(channels * config.patch**2, config.width)
        self.time = TimestepEmbedding(
            config.width,
            frequency_size=config.frequency_size,
            frequency_shift=config.frequency_shift,
            activation=config.time_activation,
        )
        self.label = nn.Embedding(classes + 1, config.width)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.depth))
        self.final = FinalLayer(config, self.out_channels * config.patch**2)
        self.positions: Tensor
        self.rotary: Tensor | None
        extra = 2 if config.conditioning == "in-context" else 0
        rotary = rotary_table(*self.grid, config.width // config.heads, extra) if config.rope else None
        self.register_buffer("positions", position_table(config.positions, *self.grid, config.width), persistent=False)
        self.register_buffer("rotary", rotary, persistent=False)
        self.initialize()

    @classmethod
    def from_preset(cls, name: str, *, channels: int = 3, size: tuple[int, int], classes: int) -> DiT:
        """A network by the name of its size and patch: `DiT.from_preset("dit-s/4", size=(64, 64), classes=10)`."""
        return cls(ModelConfig(**presets.settings(name)), channels=channels, size=size, classes=classes)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter, drawing from `generator`.

        linear layers            Xavier uniform, fused ones per matrix; biases 0
        label table, timestep MLP  normal(0, 0.02); biases 0
        adaLN-Zero modulation    0: every block starts as the identity
        final layer              0, and its modulation: the network starts by predicting 0
        norms                    1; biases 0
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for part in module.weight.chunk(module.matrices if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(part, generator=generator)
                nn.init.zeros_(module.bias)
        for weight in (self.label.weight, self.time.first.weight, self.time.second.weight):
            nn.init.normal_(weight, std=0.02, generator=generator)
        for layer in self.blocks:
            if isinstance(layer, AdaLNBlock) and layer.zero:
                nn.init.zeros_(layer.modulation.weight)
        nn.init.zeros_(self.final.linear.weight)
        if self.final.modulation is not None:
            nn.init.zeros_(self.final.modulation.weight)

    def forward(
        self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor, modulation_BF: Tensor | None = None
    ) -> Tensor:
        """Prediction (B, C, H, W), or (B, 2C, H, W) with learned sigma, for noisy images.

        Args:
            x_BCHW: about unit variance.
            timestep_B: float, in [0, diffusion.timesteps], by default 1000 and not 1; the largest is pure noise.
            label_B: int64, ids of labels or the null label.
            modulation_BF: rows of `modulation_table`, which then stand for timesteps and labels.
        """
        x_BTD, conditions = self.begin(x_BCHW, timestep_B, label_B, modulation_BF)
        return self.end(self.stack(x_BTD, conditions), conditions)

    def begin(
        self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor, modulation_BF: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The tokens before the first block, and the condition of each block and of the final layer."""
        x_BTD = self.patch_in(self.patchify(x_BCHW))
        x_BTD = x_BTD + self.positions
        if modulation_BF is not None:
            return x_BTD, list(modulation_BF.split([layer.out_features for layer in self._modulations()], dim=1))
        with in_full_precision(x_BTD):
            time_BD, label_BD = self.time(timestep_B), self.label(label_B)
        condition = None
        if self.config.conditioning == "in-context":
            x_BTD = torch.cat([x_BTD, time_BD[:, None], label_BD[:, None]], dim=1)
        elif self.config.conditioning == "cross-attention":
            condition = torch.stack([time_BD, label_BD], dim=1)
        else:
            return x_BTD, self._activated(time_BD + label_BD)
        return x_BTD, [condition] * (len(self.blocks) + 1)

    def stack(self, x_BTD: Tensor, conditions: list[Tensor | None]) -> Tensor:
        """All blocks."""
        if self.fast_blocks is not None and not self.recompute:
            return self.fast_blocks(self.blocks, x_BTD, conditions, self.rotary)
        for layer, condition in zip(self.blocks, conditions):  # noqa: B905 - torch 2.6 compiles strict=False as True
            inputs = (x_BTD, condition, self.rotary)
            if self.recompute and torch.is_grad_enabled():
                x_BTD = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = layer(*inputs)
        return x_BTD

    def end(self, x_BTD: Tensor, conditions: list[Tensor | None]) -> Tensor:
        """The final layer's prediction from the tokens after the last block."""
        tokens = self.grid[0] * self.grid[1]
        return self.unpatchify(self.final(x_BTD[:, :tokens], conditions[-1]))

    def modulation_table(self, timestep_N: Tensor, label_L: Tensor) -> Tensor:
        """The shifts, scales and gates of every timestep with every label, of all adaLN layers: (N, L, F).

        It is small, and the same for all images: a sampler computes it once. F is 0 in the other conditionings.
        """
        sum_NLD = self.time(timestep_N)[:, None] + self.label(label_L)
        pairs = zip(self._modulations(), self._activated(sum_NLD), strict=False)
        parts = [modulation(condition_NLD) for modulation, condition_NLD in pairs]
        return torch.cat(parts, dim=-1) if parts else sum_NLD[..., :0]

    def modulation_width(self) -> int:
        """F of a modulation table."""
        return sum(modulation.out_features for modulation in self._modulations())

    def _activated(self, sum_BD: Tensor) -> list[Tensor | None]:
        """The conditions of the adaLN blocks and of the final layer, of timestep and label together."""
        condition = F.silu(sum_BD)
        last = F.selu(sum_BD) if self.config.final_activation == "selu" else condition
        return [*[condition] * len(self.blocks), last]

    def _modulations(self) -> list[nn.Linear]:
        """The layers that regress shifts, scales and gates: of each block, then of the final layer."""
        of_blocks = [layer.modulation for layer in self.blocks if isinstance(layer, AdaLNBlock)]
        return [*of_blocks, *([self.final.modulation] if self.final.modulation is not None else [])]

    def patchify(self, x_BCHW: Tensor) -> Tensor:
        """Image to tokens (B, T, C*P*P), row by row."""
        B, C = x_BCHW.shape[:2]
        (h, w), P = self.grid, self.config.patch
        return x_BCHW.view(B, C, h, P, w, P).permute(0, 2, 4, 1, 3, 5).reshape(B, h * w, C * P * P)

    def unpatchify(self, x_BTF: Tensor) -> Tensor:
        """Tokens back to an image; the inverse of patchify."""
        B, (h, w), P, C = x_BTF.shape[0], self.grid, self.config.patch, self.out_channels
        return x_BTF.view(B, h, w, C, P, P).permute(0, 3, 1, 4, 2, 5).reshape(B, C, h * P, w * P)
