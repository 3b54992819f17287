"""Gradient checkpointing: which modules run again in the backward pass instead of keeping their activations. Pure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..adapters.names import MLP_CLASSES, MLP_NAMES
from ..adapters.targets import is_experts
from ..errors import ModelError

CheckpointPart = Literal["layer", "mlp"]
"""What of a layer runs again."""


def choose_modules(layers: Sequence[nn.Module], every: int, part: CheckpointPart) -> list[nn.Module]:
    """Choose what of a layer stack is recomputed.

    Every k-th layer alone, its neighbours keeping what they have: between none and all, k trades time against memory.
    Groups of k layers recomputed together would keep fewer inputs, but a layer's activations are some twenty times its
    input, and those of k layers would be alive at once.

    Args:
        layers: The stack, in order.
        every: k; 1 is every layer.
        part: Whole layers, or the MLPs in them.

    Returns:
        The modules; empty where no layer has the part.
    """
    chosen = list(layers[every - 1 :: every])
    return chosen if part == "layer" else [mlp for layer in chosen for mlp in find_mlps(layer)]


def find_mlps(layer: nn.Module) -> list[nn.Module]:
    """Find the MLPs among a layer's children: dense, or of experts; a layer that is an MLP itself is its own."""
    children = {name: child for name, child in layer.children().items() if isinstance(child, nn.Module)}
    found = [
        child
        for name, child in children.items()
        if (name in MLP_NAMES or type(child).__name__.lower().endswith(MLP_CLASSES)) and _multiplies(child)
    ]
    is_itself = type(layer).__name__.lower().endswith(MLP_CLASSES)
    return [layer] if not found and is_itself else found


def _multiplies(module: nn.Module) -> bool:
    return any(isinstance(child, (nn.Linear, nn.QuantizedLinear)) or is_experts(child) for child in module.modules())


def check_every(layers: Sequence[nn.Module], every: int) -> None:
    """Refuse a stride that chooses no layer.

    Raises:
        ModelError: There are fewer layers.
    """
    if every > len(layers):
        msg = f"train.checkpoint_every: found {every}, but the language model has {len(layers)} layers; lower it"
        raise ModelError(msg)


@contextmanager
def checkpointed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Recompute the activations of the modules in the backward pass, while the `with` lasts.

    Each instance gets a subclass of its own class for the time being; the classes themselves are not touched.
    """
    classes = [type(module) for module in modules]
    subclasses = {cls: _recomputing(cls) for cls in set(classes)}
    try:
        for module, cls in zip(modules, classes, strict=True):
            module.__class__ = subclasses[cls]
        yield
    finally:
        for module, cls in zip(modules, classes, strict=True):
            module.__class__ = cls


def _recomputing(cls: type) -> type:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Positions, masks and plain values have no gradient, and an index that is an argument would be asked for one.
        floating = [value for _, value in tree_flatten((args, kwargs)) if _is_floating(value)]

        def inner(params: Any, floating: list[mx.array]) -> Any:
            self.update(params)
            rest = iter(floating)
            given, named = tree_map(lambda value: next(rest) if _is_floating(value) else value, (args, kwargs))
            return cls.__call__(self, *given, **named)

        params = self.trainable_parameters()
        try:
            return mx.checkpoint(inner)(params, floating)
        finally:
            self.update(params)

    return type(f"Checkpointed{cls.__name__}", (cls,), {"__call__": call})


def _is_floating(value: Any) -> bool:
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
