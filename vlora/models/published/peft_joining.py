"""What PEFT has of several of transformers' layers becomes one layer of the model. Pure."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from ...errors import CheckpointError
from .links import Link

Array = np.ndarray[Any, np.dtype[Any]]


@attrs.frozen(eq=False)
class Layer:
    """What a layer has: f[R, inputs], f[outputs, R], or stacks of both; its scale and lengths."""

    a: Array
    b: Array
    scale: float
    m: Array | None = None


Parts = Sequence[tuple[Link, Layer]]


def join_layers(name: str, parts: Parts, count: int, where: str) -> Layer:
    """Join what one layer of the model is of transformers' layers.

    Args:
        name: The model's layer.
        parts: Each with its place in it.
        count: How many the layer has.
        where: The file, for errors.

    Raises:
        CheckpointError: A part lacks, or they do not fit together.
    """
    if len(parts) == 1 and all(slice_.start == 0 for slice_ in parts[0][0].own_box):
        return parts[0][1]
    if len(parts) != count:
        msg = f"{where}: adapts only a part of {name}, which is {count} layers in transformers"
        raise CheckpointError(msg)
    first = parts[0][1]
    if any(layer.scale != first.scale for _, layer in parts):
        msg = f"{where}: adapts {name} in parts of several scales, which is not read"
        raise CheckpointError(msg)
    if len(parts[0][0].own_box) == 3:  # noqa: PLR2004 - a stack
        return _join_experts(name, parts, where)
    if len({link.own_box[1].start for link, _ in parts}) > 1:
        return _join_inputs(parts)
    n_outputs = max(link.own_box[0].stop for link, _ in parts)
    # Parts of one of transformers' layers share its factor A, and so do layers for which it was repeated.
    factors = _distinct([layer.a for _, layer in parts])
    starts = np.cumsum([0, *(len(a) for a in factors)])
    b = np.zeros((n_outputs, int(starts[-1])), first.b.dtype)
    m = None if first.m is None else np.zeros(n_outputs, first.b.dtype)
    for link, layer in parts:
        place = next(place for place, a in enumerate(factors) if np.array_equal(a, layer.a))
        b[link.own_box[0], starts[place] : starts[place + 1]] = layer.b
        if m is not None:
            m[link.own_box[0]] = layer.m
    return Layer(np.concatenate(factors), b, first.scale, m)


def _join_inputs(parts: Parts) -> Layer:
    """Join parts that read different inputs: under one factor B where they share it, else side by side."""
    first = parts[0][1]
    n_inputs = max(link.own_box[1].stop for link, _ in parts)
    factors = []
    for link, layer in parts:
        a = np.zeros((len(layer.a), n_inputs), layer.a.dtype)
        a[:, link.own_box[1]] = layer.a
        factors.append(a)
    if len(_distinct([layer.b for _, layer in parts])) == 1:
        return Layer(np.sum(factors, axis=0), first.b, first.scale)
    return Layer(np.concatenate(factors), np.concatenate([layer.b for _, layer in parts], axis=1), first.scale)


def _join_experts(name: str, parts: Parts, where: str) -> Layer:
    """Stack what the experts have of transformers' layers or stacks."""
    first = parts[0][1]
    shapes = {(layer.a.shape[-2:], layer.b.shape[-1]) for _, layer in parts}
    if len(shapes) > 1 or first.m is not None:
        msg = f"{where}: adapts the experts of {name} with several ranks, or with DoRA, which is not read"
        raise CheckpointError(msg)
    count, n_outputs = (max(link.own_box[axis].stop for link, _ in parts) for axis in (0, 1))
    a = np.zeros((count, *first.a.shape[-2:]), first.a.dtype)
    b = np.zeros((count, n_outputs, first.b.shape[-1]), first.b.dtype)
    for link, layer in parts:
        experts, outputs = link.own_box[:2]
        others = link.other_box[0] if layer.a.ndim == 3 else np.newaxis  # noqa: PLR2004 - of a stack
        a[experts], b[experts, outputs] = layer.a[others], layer.b[others]
    return Layer(a, b, first.scale)


def _distinct(arrays: Sequence[Array]) -> list[Array]:
    """List arrays in their order, equal ones once."""
    found: list[Array] = []
    for value in arrays:
        if not any(np.array_equal(value, other) for other in found):
            found.append(value)
    return found
