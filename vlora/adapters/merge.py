"""Weights with what an adapter has learned, and what quantizing them changes. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx

from .layers import Adapter, DoRALinear, LoRASwitchLinear

ALL = slice(None)


def merged_weight(layer: Adapter, weight: mx.array, index: Sequence[slice] = ()) -> mx.array:
    """Add an adapter's update to weights of its layer, in float32.

    Args:
        layer: The adapter, its factors trained.
        weight: f[outputs, inputs] or f[experts, outputs, inputs]: the frozen weights, or a part of them.
        index: Which part it is, a slice of each axis; all of it if it is empty. Of DoRA whole rows only.

    Returns:
        f32, shaped as `weight`.
    """
    experts, outputs, inputs = [ALL] * (3 - len(index)) + list(index)
    weight = weight.astype(mx.float32)
    lora_a, lora_b = layer.factors(mx.float32)
    if isinstance(layer, LoRASwitchLinear):
        return weight + layer.scale * (lora_b[experts][:, outputs] @ lora_a[experts][:, :, inputs])
    merged = weight + layer.scale * (lora_a[inputs] @ lora_b[:, outputs]).T
    if not isinstance(layer, DoRALinear):
        return merged
    # As `DoRALinear.norms` bounds it.
    norms = mx.sqrt(mx.maximum(mx.square(merged).sum(axis=1), 1e-12))
    return (layer.m[outputs].astype(mx.float32) / norms)[:, None] * merged


@attrs.frozen
class Rounding:
    """What quantizing changes of weights that were trained: sums of squares over layers.

    Attributes:
        n_layers: Layers that were quantized.
        error: Of what quantizing has changed.
        update: Of what training has changed.
        weights: Of the weights.
        worst: The layer that is changed most beside its weights, and by which share of them.
    """

    n_layers: int = 0
    error: float = 0.0
    update: float = 0.0
    weights: float = 0.0
    worst: tuple[str, float] | None = None

    @property
    def share(self) -> float:
        """How large the change is beside the weights."""
        return (self.error / self.weights) ** 0.5 if self.weights else 0.0

    @property
    def share_of_update(self) -> float | None:
        """How large the change is beside what was learned; None where nothing was."""
        return (self.error / self.update) ** 0.5 if self.update else None

    def add(self, name: str, before: mx.array, trained: mx.array, quantized: mx.array) -> "Rounding":
        """Count a layer.

        Args:
            name: The layer.
            before: Its weights before training.
            trained: The same with what was learned.
            quantized: The same quantized, and unpacked again.
        """
        return self.count(name, *squares(before, trained, quantized))

    def count(self, name: str, error: float, update: float, weights: float) -> "Rounding":
        """Count a layer by the sums that `squares` gives of it."""
        share = (error / weights) ** 0.5 if weights else 0.0
        worst = self.worst if self.worst is not None and self.worst[1] >= share else (name, share)
        return Rounding(self.n_layers + 1, self.error + error, self.update + update, self.weights + weights, worst)


def squares(before: mx.array, trained: mx.array, quantized: mx.array) -> tuple[float, float, float]:
    """Sum up what quantizing has changed of some weights, what training has, and the weights, each squared."""
    pairs = ((trained, quantized), (before, trained), (trained, mx.zeros(())))
    sums = [mx.square(a.astype(mx.float32) - b.astype(mx.float32)).sum() for a, b in pairs]
    mx.eval(sums)
    error, update, weights = (float(value) for value in sums)
    return error, update, weights


def quantized_parts(weight: mx.array, scheme: Mapping[str, Any]) -> dict[str, mx.array]:
    """Quantize weights: "weight", "scales" and, where the mode has them, "biases"."""
    parts = mx.quantize(weight, group_size=scheme["group_size"], bits=scheme["bits"], mode=scheme["mode"])
    return dict(zip(("weight", "scales", "biases"), parts, strict=False))


def unpacked(parts: Mapping[str, mx.array], scheme: Mapping[str, Any]) -> mx.array:
    """Unpack quantized weights, computed in float32.

    Args:
        parts: As `quantized_parts` gives them.
        scheme: How they are quantized.
    """
    scales, biases = parts["scales"], parts.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    settings = {"group_size": scheme["group_size"], "bits": scheme["bits"], "mode": scheme["mode"]}
    weight: mx.array = mx.dequantize(parts["weight"], scales, biases, **settings)
    return weight.astype(mx.float32)
