"""The blocks of a DiT on a CPU: torch's matrix products, and between them the kernels in C.

A block here takes the stream `h` and the branch before it, whose product `y` still lacks bias and gate, and returns
the same pair: residual, norm and modulation, of two neighbouring blocks, are then one pass over memory.

B batch, T tokens, M = B T rows, D width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from ..config import ModelConfig
from ..models.blocks import AdaLNBlock, regressed
from .calls import Branch, Calls
from .library import KernelsUnavailable, open_library


def why_not(config: ModelConfig) -> str | None:
    """Why the kernels cannot run the blocks of a network; None where they can."""
    return "they have no cross-attention" if config.conditioning == "cross-attention" else None


class FastBlocks:
    """Runs the stack of blocks of a DiT on a CPU, of any config that `why_not` has nothing against.

    With `dtype` bfloat16 the operands of the blocks' matrix products are bfloat16; sums, norms, the stream of tokens
    and modulations stay float32. Raises KernelsUnavailable where there is no library of kernels.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        self.config, self.dtype = config, dtype
        self._library = open_library()
        self._copies: Any = WeakTensorKeyDictionary()  # of weights in `dtype`, with the version that they are of

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.config, self.dtype)  # a library is not copied, and the copy's weights are others

    def __call__(
        self, blocks: nn.ModuleList, x_BTD: Tensor, conditions: Sequence[Tensor | None], rotary_2TF: Tensor | None
    ) -> Tensor:
        """The tokens (B, T, D), float32, after all blocks; conditions as `DiT.stack` has them.

        A network that was moved to another device or precision since, or is being compiled or traced, is run by torch.
        """
        if not _computes_now(x_BTD, blocks):
            for layer, condition in zip(blocks, conditions):  # noqa: B905 - as in `DiT.stack`
                x_BTD = layer(x_BTD, condition, rotary_2TF)
            return x_BTD
        with torch.autocast("cpu", enabled=False):
            h, branch = x_BTD.float().reshape(-1, x_BTD.shape[2]).contiguous(), (None, None, None)
            calls = self._calls(x_BTD, rotary_2TF)
            for layer, condition in zip(blocks, conditions, strict=False):
                shift_scale, gates = _modulations(layer, condition)
                linears, qk_scale = _linears(layer)
                weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
                reduced = tuple(self._in_dtype(weight) for weight in weights)
                h, y = _Block.apply(  # pyright: ignore
                    calls, reduced, h, *branch, *shift_scale, gates[0], qk_scale, *biases[:3], *weights
                )
                branch = (y, biases[3], gates[1])
            return _Residual.apply(calls, h, *branch).view(x_BTD.shape)  # pyright: ignore

    def _calls(self, x_BTD: Tensor, rotary_2TF: Tensor | None) -> Calls:
        images, tokens, width = x_BTD.shape
        return Calls(
            library=self._library,
            dtype=self.dtype,
            images=images,
            tokens=tokens,
            width=width,
            heads=self.config.heads,
            parts=torch.get_num_threads(),
            layer_norm=self.config.norm == "layer",
            affine=not self.config.conditioning.startswith("adaln"),
            activation=self.config.mlp,
            rotary_2TF=rotary_2TF,
        )

    def _in_dtype(self, weight: Tensor) -> Tensor:
        """The weight for products; a copy is kept until the weight changes in place."""
        if self.dtype == torch.float32 or weight.is_inference():  # a tensor of inference has no version
            return weight.detach().to(self.dtype)
        state = (weight._version, weight.data_ptr())
        copy = self._copies.get(weight)
        if copy is None or copy[0] != state:
            copy = self._copies[weight] = (state, weight.detach().to(self.dtype))
        return copy[1]


def _computes_now(x_BTD: Tensor, blocks: nn.ModuleList) -> bool:
    """Whether C can read what the blocks compute with: float32 numbers in the computer's memory, and no stand-ins."""
    deferred = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore
    if deferred or torch._C._are_functorch_transforms_active() or type(x_BTD) is not Tensor:
        return False
    weight = next(blocks.parameters())
    return x_BTD.device.type == "cpu" and weight.dtype == torch.float32 and x_BTD.dtype != torch.float64


def _open(config: ModelConfig, dtype: torch.dtype) -> FastBlocks | None:
    """The same of a copied network; nothing where it is read and there are no kernels."""
    try:
        return FastBlocks(config, dtype)
    except KernelsUnavailable:
        return None


def _linears(layer: Any) -> tuple[tuple[nn.Linear, ...], Tensor | None]:
    """The four products of a block, in their order, and the scale of its QK norm."""
    attention, mlp = layer.attention, layer.mlp
    return (attention.qkv, attention.out, mlp.first, mlp.second), attention.qk_scale


def _modulations(
    layer: nn.Module, condition: Tensor | None
) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, Tensor | None]]:
    """Shift and scale of both norms, and the gates of both branches; those of an adaLN block are (B, D)."""
    if isinstance(layer, AdaLNBlock):
        assert condition is not None
        parts = [_rows(part) for part in regressed(layer.modulation, condition, 6 if layer.zero else 4)]
        return tuple(parts[:4]), (parts[4], parts[5]) if layer.zero else (None, None)
    norms: tuple[Any, Any] = (layer.attention_norm, layer.mlp_norm)
    return tuple(parameter for norm in norms for parameter in (norm.bias, norm.weight)), (None, None)


def _rows(part_B1D: Tensor) -> Tensor:
    """(B, D), float32, of contiguous rows; they may lie apart, as views of a modulation table do."""
    part_BD = part_B1D.squeeze(1).float()
    return part_BD if part_BD.stride(1) == 1 else part_BD.contiguous()


class _Block(torch.autograd.Function):
    """One block between two branches; its gradients are those of the eager block to rounding."""

    @staticmethod
    def forward(
        ctx: Any,
        calls: Calls,
        weights: tuple[Tensor, ...],
        h: Tensor,
        y: Tensor | None,
        y_bias: Tensor | None,
        y_gate: Tensor | None,
        attention_shift: Tensor | None,
        attention_scale: Tensor,
        mlp_shift: Tensor | None,
        mlp_scale: Tensor,
        gate: Tensor | None,
        qk_scale: Tensor | None,
        qkv_bias: Tensor,
        out_bias: Tensor,
        first_bias: Tensor,
        *_parameters: Tensor,  # of which `weights` are copies
    ) -> tuple[Tensor, Tensor]:
        qkv_weight, out_weight, first_weight, second_weight = weights
        h1, a1, stats1 = calls.norm(h, _branch(y, y_bias, y_gate), attention_shift, attention_scale)
        qkv = torch.mm(a1, qkv_weight.t())
        mixed = calls.attention(qkv, qkv_bias, qk_scale)
        y1 = torch.mm(mixed, out_weight.t())
        h2, a2, stats2 = calls.norm(h1, _branch(y1, out_bias, gate), mlp_shift, mlp_scale)
        u = torch.mm(a2, first_weight.t())
        z = calls.activate(u, first_bias)
        y2 = torch.mm(z, second_weight.t())
        ctx.calls, ctx.weights = calls, weights
        ctx.save_for_backward(
            y, y_bias, y_gate, attention_scale, mlp_scale, gate, qk_scale, qkv_bias, out_bias, first_bias,
            h1, a1, *stats1, qkv, mixed, y1, h2, a2, *stats2, u, z,
        )  # fmt: skip
        return h2, y2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh2: Tensor, dy2: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        calls: Calls = ctx.calls
        qkv_weight, out_weight, first_weight, second_weight = ctx.weights
        (
            y, y_bias, y_gate, attention_scale, mlp_scale, gate, qk_scale, qkv_bias, out_bias, first_bias,
            h1, a1, mean1, factor1, qkv, mixed, y1, h2, a2, mean2, factor2, u, z,
        ) = ctx.saved_tensors  # fmt: skip
        d_second = torch.mm(dy2.t(), z)
        du, d_first_bias = calls.activate_backward(u, first_bias, torch.mm(dy2, second_weight))
        d_first = torch.mm(du.t(), a2)
        dh1, d_mlp, (dy1, d_out_bias, d_gate) = calls.norm_backward(
            h2, (mean2, factor2), mlp_scale, torch.mm(du, first_weight), dh2, _branch(y1, out_bias, gate)
        )
        d_out = torch.mm(dy1.t(), mixed)  # pyright: ignore
        d_qkv, d_qkv_bias, d_qk_scale = calls.attention_backward(
            qkv,
            qkv_bias,
            qk_scale,
            torch.mm(dy1, out_weight),  # pyright: ignore
        )
        d_qkv_weight = torch.mm(d_qkv.t(), a1)
        dh, d_attention, d_branch = calls.norm_backward(
            h1, (mean1, factor1), attention_scale, torch.mm(d_qkv, qkv_weight), dh1, _branch(y, y_bias, y_gate),
            in_place=True,
        )  # fmt: skip
        gradients = (
            None, None, dh, *d_branch, *d_attention, *d_mlp, d_gate, d_qk_scale,
            d_qkv_bias, d_out_bias, d_first_bias, d_qkv_weight, d_out, d_first, d_second,
        )  # fmt: skip
        return tuple(grad if need else None for grad, need in zip(gradients, ctx.needs_input_grad, strict=True))


class _Residual(torch.autograd.Function):
    """The stream after the last branch."""

    @staticmethod
    def forward(ctx: Any, calls: Calls, h: Tensor, y: Tensor, bias: Tensor, gate: Tensor | None) -> Tensor:
        ctx.calls = calls
        ctx.save_for_backward(y, bias, gate)
        return calls.add(h, Branch(y=y, bias=bias, gate=gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        y, bias, gate = ctx.saved_tensors
        dh = dh.contiguous()
        return None, dh, *ctx.calls.add_backward(dh, Branch(y=y, bias=bias, gate=gate))


def _branch(y: Tensor | None, bias: Tensor | None, gate: Tensor | None) -> Branch | None:
    return None if y is None or bias is None else Branch(y=y, bias=bias, gate=gate)
