"""What both sides in mlx need to know of arrays and of the device."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    return mx.default_device() != mx.Device(mx.cpu)


def floating_type() -> mx.Dtype:
    """Give the type in which models are trained here."""
    return mx.bfloat16 if on_gpu() else mx.float32


def count_bytes(tree: Any) -> int:
    """Count the bytes of a tree of arrays."""
    return sum(value.nbytes for _, value in tree_flatten(tree))
