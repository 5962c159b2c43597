"""The kernels as functions of tensors: they make room for the results and hand addresses to C.

B images, T tokens, M = B T rows, D width, N heads, K head width, H hidden width, P parts of the work, one a thread.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import ACTIVATIONS, Activation, Attention, NormBackward, NormForward

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What a block adds to the stream h: gate (y + bias)."""

    y: Tensor  # (M, D), the last product of an attention or a feed-forward, of the products' dtype
    bias: Tensor  # (D,)
    gate: Tensor | None  # (B, D); None: 1


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The kernels for one shape of tokens, in one dtype of the matrix products."""

    library: ctypes.CDLL
    dtype: torch.dtype
    images: int
    tokens: int
    width: int
    heads: int
    parts: int
    layer_norm: bool  # else RMSNorm
    affine: bool  # the norms have weights of their own, the same for all images; else modulations
    activation: str
    rotary_2TF: Tensor | None

    def norm(
        self, h_MD: Tensor, branch: Branch | None, shift: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor]]:
        """The stream with the branch added, its modulated norm, and each row's mean and factor for backward."""
        h2_MD = h_MD if branch is None else torch.empty_like(h_MD)
        a_MD = h_MD.new_empty(h_MD.shape, dtype=self.dtype)
        mean_M, factor_M = h_MD.new_empty(len(h_MD)) if self.layer_norm else None, h_MD.new_empty(len(h_MD))
        arguments = NormForward(
            **self._size(),
            **_branch(branch),
            eps=_EPS,
            one=0.0 if self.affine else 1.0,
            h=_at(h_MD),
            shift=_at(shift),
            scale=_at(scale),
            stride=0 if self.affine else scale.stride(0),
            h2=_at(h2_MD),
            a=_at(a_MD),
            mean=_at(mean_M),
            factor=_at(factor_M),
        )
        self._run("norm_forward", arguments)
        return h2_MD, a_MD, (mean_M, factor_M)

    def add(self, h_MD: Tensor, branch: Branch) -> Tensor:
        """The stream with a branch added."""
        h2_MD = torch.empty_like(h_MD)
        arguments = NormForward(**self._size(), **_branch(branch), h=_at(h_MD), h2=_at(h2_MD))
        self._run("norm_forward", arguments)
        return h2_MD

    def norm_backward(
        self,
        h_MD: Tensor,
        stats: tuple[Tensor | None, Tensor],
        scale: Tensor,
        da_MD: Tensor,
        dh2_MD: Tensor,
        branch: Branch | None,
        *,
        in_place: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor | None, ...]]:
        """Gradients of the stream before the norm, of shift and scale, and of a branch's y, bias and gate.

        `dh2_MD` is that of the stream after it; it is overwritten if `in_place`.
        """
        dh_MD = dh2_MD if in_place else torch.empty_like(dh2_MD)
        d_shift, d_scale = (h_MD.new_empty(self.images * self._cuts(), self.width) for _ in range(2))
        outputs = self._room_for_branch(dh2_MD, branch)
        arguments = NormBackward(
            **self._size(),
            **_branch(branch),
            **_grads(outputs),
            one=0.0 if self.affine else 1.0,
            h=_at(h_MD),
            mean=_at(stats[0]),
            factor=_at(stats[1]),
            da=_at(da_MD),
            scale=_at(scale),
            stride=0 if self.affine else scale.stride(0),
            dh2=_at(dh2_MD),
            dh=_at(dh_MD),
            d_shift=_at(d_shift),
            d_scale=_at(d_scale),
        )
        self._run("norm_backward", arguments)
        return dh_MD, (self._of_images(d_shift), self._of_images(d_scale)), self._branch_grads(outputs)

    def add_backward(self, dh_MD: Tensor, branch: Branch) -> tuple[Tensor | None, ...]:
        """Gradients of a branch's y, bias and gate, of that of the stream it was added to."""
        outputs = self._room_for_branch(dh_MD, branch)
        arguments = NormBackward(**self._size(), **_branch(branch), **_grads(outputs), dh2=_at(dh_MD))
        self._run("norm_backward", arguments)
        return self._branch_grads(outputs)

    def attention(self, qkv_M3: Tensor, bias: Tensor, qk_scale: Tensor | None) -> Tensor:
        """Mixed values (M, D) of queries, keys and values (M, 3 D) that still lack their bias."""
        out_MD = qkv_M3.new_empty(len(qkv_M3), self.width)
        arguments, _scratch = self._attention(qkv_M3, bias, qk_scale)
        arguments.out = _at(out_MD)
        self._run("attention_forward", arguments)
        return out_MD

    def attention_backward(
        self, qkv_M3: Tensor, bias: Tensor, qk_scale: Tensor | None, d_out_MD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of queries, keys and values, of their bias, and of the QK norm's scale."""
        d_qkv_M3 = torch.empty_like(qkv_M3)
        d_bias = bias.new_empty(self.parts, len(bias))
        d_scale = bias.new_empty(self.parts, 2 * (self.width // self.heads))
        arguments, _scratch = self._attention(qkv_M3, bias, qk_scale)
        arguments.d_out, arguments.d_qkv = _at(d_out_MD), _at(d_qkv_M3)
        arguments.d_bias, arguments.d_scale = _at(d_bias), _at(d_scale)
        self._run("attention_backward", arguments)
        return d_qkv_M3, d_bias.sum(0), None if qk_scale is None else d_scale.sum(0).view_as(qk_scale)

    def activate(self, u: Tensor, bias: Tensor) -> Tensor:
        """Hidden layer (M, H) of the feed-forward's first product without bias, (M, H), or (M, 2 H) for SwiGLU."""
        z_MH = u.new_empty(len(u), self._hidden(u))
        self._run("activation_forward", self._activation(u, bias, z=_at(z_MH)))
        return z_MH

    def activate_backward(self, u: Tensor, bias: Tensor, dz_MH: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the first product and of its bias."""
        du, d_bias = torch.empty_like(u), bias.new_empty(self.parts, len(bias))
        self._run("activation_backward", self._activation(u, bias, dz=_at(dz_MH), du=_at(du), d_bias=_at(d_bias)))
        return du, d_bias.sum(0)

    def _run(self, name: str, arguments: ctypes.Structure) -> None:
        suffix = "bfloat16" if self.dtype == torch.bfloat16 else "float32"
        getattr(self.library, f"{name}_{suffix}")(ctypes.byref(arguments), self.parts)

    def _size(self) -> dict[str, int]:
        return {"images": self.images, "tokens": self.tokens, "width": self.width, "cuts": self._cuts()}

    def _cuts(self) -> int:
        """Pieces of an image that norms work on separately, so that few images keep all threads busy."""
        return min(self.tokens, -(-self.parts // self.images))

    def _of_images(self, sums: Tensor) -> Tensor:
        """Sums of pieces of images as those of images, (B, D); of affine norms, of all of them, (D,)."""
        if self.affine:
            return sums.sum(0)
        return sums if self._cuts() == 1 else sums.view(self.images, self._cuts(), self.width).sum(1)

    def _room_for_branch(self, dh_MD: Tensor, branch: Branch | None) -> tuple[Tensor | None, ...]:
        if branch is None:
            return None, None, None
        d_bias = dh_MD.new_empty(self.parts, self.width)
        d_gate = None if branch.gate is None else dh_MD.new_empty(self.images * self._cuts(), self.width)
        return torch.empty_like(branch.y), d_bias, d_gate

    def _branch_grads(self, outputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        dy, d_bias, d_gate = outputs
        bias = None if d_bias is None else d_bias.sum(0)
        return dy, bias, None if d_gate is None else self._of_images(d_gate)

    def _attention(self, qkv_M3: Tensor, bias: Tensor, qk_scale: Tensor | None) -> tuple[Attention, Tensor]:
        head_width = self.width // self.heads
        scratch = bias.new_empty(self.parts * self.library.attention_scratch(self.tokens, head_width))
        cosine, sine = (None, None) if self.rotary_2TF is None else self.rotary_2TF
        arguments = Attention(
            images=self.images,
            tokens=self.tokens,
            heads=self.heads,
            head_width=head_width,
            qkv=_at(qkv_M3),
            bias=_at(bias),
            scale=_at(qk_scale),
            cosine=_at(cosine),
            sine=_at(sine),
            scratch=_at(scratch),
        )
        return arguments, scratch

    def _activation(self, u: Tensor, bias: Tensor, **addresses: int | None) -> Activation:
        kind = ACTIVATIONS[self.activation]
        return Activation(rows=len(u), hidden=self._hidden(u), kind=kind, u=_at(u), bias=_at(bias), **addresses)

    def _hidden(self, u: Tensor) -> int:
        return u.shape[1] // 2 if self.activation == "swiglu" else u.shape[1]


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _branch(branch: Branch | None) -> dict[str, int | None]:
    if branch is None:
        return {}
    stride = 0 if branch.gate is None else branch.gate.stride(0)
    return {"y": _at(branch.y), "bias": _at(branch.bias), "gate": _at(branch.gate), "gate_stride": stride}


def _grads(outputs: tuple[Tensor | None, ...]) -> dict[str, int | None]:
    return dict(zip(("dy", "d_bias", "d_gate"), map(_at, outputs), strict=True))
