"""The model quantized to 4 bits, as `model.quantize_bits = 4` quantizes it."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ... import models
from ...data.collate import collate
from ...errors import CheckError, ModelError
from ...recipe.schema import ModelSection
from ...types import FloatArray
from .steps import take_gradients
from .subject import OTHER_SHAPE, LeftOut, Subject, bounded, share_of

BITS = 4

GROUP_SIZES = (64, 32)
"""Weights that share a scale: what a recipe has without a number, and what narrow layers need."""


def check_quantized(subject: Subject) -> str | LeftOut:
    """Quantize the model in place: adapters learn on it, and its logits are those of the same weights unpacked.

    The subject is another one afterwards.
    """
    if subject.is_full:
        return LeftOut("full fine-tuning quantizes nothing")
    before = _logits(subject)
    models.detach(subject.backbone.module)
    subject.params = {}
    try:
        size = _quantize(subject)
    except ModelError as error:
        return LeftOut(str(error))
    packed, layers = _logits(subject), dict(subject.backbone.module.named_modules())
    subject.config = models.add_lora(subject.backbone, subject.lora, seed=0, quantized=subject.quantized)
    subject.begin()
    loss, gradients = take_gradients(subject, compiled=subject.backbone.is_traceable)
    infinite = [name for name, value in gradients.items() if not mx.isfinite(value).all().item()]
    if infinite or not np.isfinite(loss):
        msg = (
            f"on {BITS} bits the loss is {loss:.3g} and {len(infinite)} gradients are not finite; train it unquantized"
        )
        raise CheckError(msg)
    models.detach(subject.backbone.module)
    subject.params = {}
    for name in subject.quantized:
        unpack(layers[name])
    subject.backbone = models.MlxVlmBackbone(
        subject.backbone.module, subject.backbone.family, subject.backbone.language_prefix
    )
    problem = (
        "logits of 4-bit weights {found} when the same weights are unpacked; train the model unquantized, and report it"
    )
    share = bounded(share_of(packed, _logits(subject)), OTHER_SHAPE[subject.precision], problem)
    grouped = "" if size == GROUP_SIZES[0] else f" with model.quantize_group_size = {size}"
    correlation = float(np.corrcoef(packed.reshape(-1), before.reshape(-1))[0, 1])
    return (
        f"{len(subject.quantized)} layers{grouped}; loss {loss:.3f}, logits off by {share:.1e} from unpacked weights "
        f"(correlation {correlation:.2f} with those before)"
    )


def _logits(subject: Subject) -> FloatArray:
    return np.concatenate(subject.row_logits(collate(subject.examples), range(len(subject.examples))))


def unpack(layer: nn.Module) -> None:
    """Make a plain layer of a quantized one, in place."""
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, mode=layer.mode)
    for name in ("scales", "biases"):
        layer.pop(name, None)
    layer.weight = weight
    layer.__class__ = nn.Embedding if isinstance(layer, nn.QuantizedEmbedding) else nn.Linear
    mx.eval(weight)


def _quantize(subject: Subject) -> int:
    """Quantize in groups of the largest size that fits a layer."""
    for size in GROUP_SIZES:
        section = ModelSection(path="the model", quantize_bits=BITS, quantize_group_size=size)
        try:
            subject.backbone, subject.quantized = models.quantize_loaded(subject.backbone, section)
        except ModelError:
            if size == GROUP_SIZES[-1]:
                raise
        else:
            return size
    raise AssertionError
