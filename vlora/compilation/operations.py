"""MLX's elementwise operations, by the names that they have within the name of a fused kernel."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": mx.abs,
    "ArcCos": mx.arccos,
    "ArcCosh": mx.arccosh,
    "ArcSin": mx.arcsin,
    "ArcSinh": mx.arcsinh,
    "ArcTan": mx.arctan,
    "ArcTanh": mx.arctanh,
    "BitwiseInvert": mx.bitwise_invert,
    "Ceil": mx.ceil,
    "Conjugate": mx.conjugate,
    "Cos": mx.cos,
    "Cosh": mx.cosh,
    "Erf": mx.erf,
    "ErfInv": mx.erfinv,
    "Exp": mx.exp,
    "Expm1": mx.expm1,
    "Floor": mx.floor,
    "Imag": mx.imag,
    "Log": mx.log,
    "Log10": mx.log10,
    "Log1p": mx.log1p,
    "Log2": mx.log2,
    "LogicalNot": mx.logical_not,
    "Negative": mx.negative,
    "Real": mx.real,
    "Round": mx.round,
    "Rsqrt": mx.rsqrt,
    "Sigmoid": mx.sigmoid,
    "Sign": mx.sign,
    "Sin": mx.sin,
    "Sinh": mx.sinh,
    "Sqrt": mx.sqrt,
    "Square": mx.square,
    "Tan": mx.tan,
    "Tanh": mx.tanh,
}
BINARY: dict[str, Callable[..., Any]] = {
    "Add": mx.add,
    "ArcTan2": mx.arctan2,
    "BitwiseAnd": mx.bitwise_and,
    "BitwiseOr": mx.bitwise_or,
    "BitwiseXor": mx.bitwise_xor,
    "Divide": lambda a, b: mx.divide(a, b) if mx.issubdtype(a.dtype, mx.inexact) else mx.floor_divide(a, b),
    "Equal": mx.equal,
    "FloorDivide": mx.floor_divide,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "LeftShift": mx.left_shift,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "LogAddExp": mx.logaddexp,
    "LogicalAnd": mx.logical_and,
    "LogicalOr": mx.logical_or,
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Multiply": mx.multiply,
    "NotEqual": mx.not_equal,
    "Power": mx.power,
    "Remainder": mx.remainder,
    "RightShift": mx.right_shift,
    "Subtract": mx.subtract,
}
TERNARY: dict[str, Callable[..., Any]] = {"Select": mx.where}
N_INPUTS = {
    **dict.fromkeys([*UNARY, "AsType"], (1,)),
    **dict.fromkeys(BINARY, (2,)),
    **dict.fromkeys(TERNARY, (3,)),
    # Where a function is compiled for all shapes, the arrays follow that an array is to have the shape of.
    "Broadcast": (3, 2, 1),
}
"""How many inputs an operation may have, the likeliest number last."""
