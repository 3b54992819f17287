"""Gemma 3n. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...types import BoolArray
from ..forward.calls import call_language_model
from ..forward.lm_inputs import LMInputs
from ..forward.overrides import chain, override_attributes, override_call
from .family import Family, Format, Forward, Parts


class SharedKeys:
    """The keys and values of one layer, as later layers of one forward read them; position 0 is the row's first.

    Gemma 3n's later layers take the keys and values of earlier ones from a cache; mlx-vlm's own caches count the
    padded length as already read (gemma3n/language.py:139), so that queries would be rotated by it.
    """

    offset = 0

    def __init__(self) -> None:
        self.state: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Hold a layer's keys and values."""
        self.state = (keys, values)
        return keys, values


def hold_padding(fields: LMInputs, is_padding: BoolArray) -> LMInputs:
    """Stop the gradient of the per-layer embeddings of some tokens, bool[T]."""
    inputs = fields.get("per_layer_inputs")
    if inputs is None:
        return fields
    held = mx.where(mx.array(is_padding)[None, :, None, None], mx.stop_gradient(inputs), inputs)
    return {**fields, "per_layer_inputs": held}


def upright_images(module: nn.Module) -> AbstractContextManager[None]:
    """Put an image's features into row order.

    mlx-vlm's fusion of the tower's features transposes rows and columns once (gemma3n/vision.py:102), so that Gemma 3n
    would see every image mirrored at its diagonal.
    """
    original = type(module).get_image_features

    def upright(*args: Any) -> mx.array:
        features: mx.array = original(*args)
        n_images, n_tokens, width = features.shape
        side = int(n_tokens**0.5)
        return features.reshape(n_images, side, side, width).swapaxes(1, 2).reshape(n_images, n_tokens, width)

    return override_attributes(module, get_image_features=upright)


MOBILENET_EPSILON = 1e-6


@contextmanager
def match_reference_mobilenet(module: nn.Module) -> Iterator[None]:
    """Correct the padding, the activation and the epsilon of Gemma 3n's tower.

    Keys and values are downsampled with padding below and to the right; mlx-vlm pads on all sides
    (gemma3n/vision.py:572), so that they lie a pixel off. Its activation is exact (:147) and its norms' epsilon larger
    (:198). The corrected blocks agree with timm's to 1e-5.
    """
    tower = module.vision_tower
    norms = [(child, child.eps) for child in tower.modules() if hasattr(child, "eps")]
    with ExitStack() as stack:
        for name, child in tower.named_modules():
            if name.endswith(".down_conv"):
                stack.enter_context(override_call(child, padded_as_needed(child)))
            elif isinstance(child, nn.GELU):
                stack.enter_context(override_call(child, nn.gelu_approx))
        try:
            for child, _ in norms:
                child.eps = MOBILENET_EPSILON
            yield
        finally:
            for child, epsilon in norms:
                child.eps = epsilon


def padded_as_needed(convolution: nn.Module) -> Callable[[mx.array], mx.array]:
    """Make a convolution of f[B, H, W, C] that pads for an output of ceil(size / stride), most of it last."""
    kernel, strides = convolution.weight.shape[1:3], convolution.stride

    def convolve(x: mx.array) -> mx.array:
        missing = [
            max((-(-size // stride) - 1) * stride + width - size, 0)
            for size, stride, width in zip(x.shape[1:3], strides, kernel, strict=True)
        ]
        x = mx.pad(x, [(0, 0), *((count // 2, count - count // 2) for count in missing), (0, 0)])
        return mx.conv2d(x, convolution.weight, strides, groups=convolution.groups)

    return convolve


def scaled_embeddings(module: nn.Module) -> AbstractContextManager[None]:
    """Multiply the text's embeddings by the root of the width.

    mlx-vlm does so with ids (gemma3n/language.py:479) but not with the embeddings of a prompt (gemma3n/gemma3n.py:122),
    which it generates from.
    """
    table = module.language_model.model.embed_tokens
    embed = type(table).__call__

    def scaled(tokens: mx.array) -> mx.array:
        embeds: mx.array = embed(table, tokens)
        return embeds * mx.array(module.config.text_config.hidden_size**0.5, dtype=embeds.dtype)

    return override_call(table, scaled)


def finish_gemma3n(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Keep the per-layer embeddings of the padding token, which images use, untrained."""
    ids = np.array(tokens)[0]
    return hold_padding(fields, (ids >= module.config.text_config.vocab_size_per_layer_input) | (ids == 0))


@contextmanager
def kept_coefficients(module: nn.Module) -> Iterator[None]:
    """Prevent a forward from changing AltUp's weights.

    mlx-vlm writes them back in float32, and clipped (gemma3n/language.py:249, :278); a trace would leave tracers there.
    transformers clips in training mode alone, at a bound (120) that no published weight comes near.
    """
    altups = [layer.altup for layer in module.language_model.model.layers]
    held = [(part, part.weight) for altup in altups for part in (altup.prediction_coefs, altup.correction_coefs)]
    try:
        with override_attributes(module.language_model.config, altup_coef_clip=None):
            yield
    finally:
        for part, weight in held:
            part.weight = weight


def forward_gemma3n(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Gemma 3n's language model with a cache that shares keys and values, and holds nothing else."""
    caches = [SharedKeys() for _ in range(module.language_model.model.first_kv_shared_layer_idx)]
    return call_language_model(module, tokens, {"cache": caches, **fields})


FAMILIES: Mapping[str, Family] = {
    "gemma3n": Family(
        format=Format(image_mark="<image_soft_token>"),
        parts=Parts(checkpointed_part="mlp", no_adapter=("prediction_coefs", "correction_coefs")),
        forward=Forward(
            packs=True,
            finish_inputs=finish_gemma3n,
            forward=forward_gemma3n,
            embed_overrides=chain(scaled_embeddings, upright_images, match_reference_mobilenet),
            train_overrides=kept_coefficients,
        ),
        upstream_differs=(
            "a prompt's text is not scaled, its images are mirrored, the tower has another padding, activation and "
            "epsilon, and queries that share keys are rotated too far (gemma3n/gemma3n.py:122, vision.py:102, :572, "
            ":147, :198, language.py:139)"
        ),
    ),
}
