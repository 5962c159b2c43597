"""The arguments of the kernels in C: one struct each, field by field as in source/kernels.c and source/update.h.

A pointer is an address (`Tensor.data_ptr()`), or None for what a kernel is to leave out.
"""

from __future__ import annotations

import ctypes

_INT, _LONG, _FLOAT, _DOUBLE, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_void_p
MOST_AVERAGES = 4


def _fields(**kinds: str) -> list[tuple[str, type]]:
    """Fields of each kind, in order; the names of a kind are separated by spaces."""
    types = {"int": _INT, "long": _LONG, "float": _FLOAT, "double": _DOUBLE, "pointer": _POINTER}
    return [(name, types[kind.rstrip("_")]) for kind, names in kinds.items() for name in names.split()]


class NormForward(ctypes.Structure):
    _fields_ = _fields(
        int="images tokens width cuts",
        float="eps one",
        pointer="h y bias gate shift scale",
        long="gate_stride stride",
        pointer_="h2 a mean factor",
    )


class NormBackward(ctypes.Structure):
    _fields_ = _fields(
        int="images tokens width cuts",
        float="one",
        pointer="h mean factor da scale",
        long="stride",
        pointer_="dh2 dh d_shift d_scale y bias gate",
        long_="gate_stride",
        pointer__="dy d_gate d_bias",
    )


class Attention(ctypes.Structure):
    _fields_ = _fields(
        int="images tokens heads head_width",
        pointer="qkv bias scale cosine sine out scratch d_out d_qkv d_bias d_scale",
    )


class Activation(ctypes.Structure):
    _fields_ = _fields(long="rows", int="hidden kind", pointer="u bias z dz du d_bias")


class Update(ctypes.Structure):
    _fields_ = [
        *_fields(pointer="first tensor begin end gradient weight mean square step rate decay", long="tensors"),
        ("average", _POINTER * MOST_AVERAGES),
        ("toward", _DOUBLE * MOST_AVERAGES),
        *_fields(long="averages", double="beta1 beta2 eps factor", pointer="squares"),
    ]


STRUCTS = (NormForward, NormBackward, Attention, Activation, Update)
ACTIVATIONS = {"swiglu": 0, "gelu": 1, "gelu-tanh": 2}
