"""What mlx-vlm computes otherwise than Gemma's published models, corrected.

Lines are those of mlx-vlm 0.7.10.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ...types import BoolArray
from ..backbone.head import TiedHead
from ..forward.attention_masks import block_mask, number_runs, own_masks
from ..forward.calls import call_language_model
from ..forward.lm_inputs import SEGMENTS, LMInputs
from ..forward.overrides import override_attributes, override_call, scatter_features

# ---------------------------------------------------------------------------------------------
# Gemma 3


def fix_gemma3(module: nn.Module) -> None:
    """Tie the head, and give the tower's last norm its epsilon."""
    tie_head(module)
    fix_siglip(module)


def tie_head(module: nn.Module) -> None:
    """Make the head and the embedding one where they are alike.

    Gemma's are one, and `sanitize` (gemma3/language.py:266) makes the head a copy of the embedding whatever a
    checkpoint holds: trained apart, the head's training would be lost on loading.
    """
    language = module.language_model
    parts = (language.lm_head, language.model.embed_tokens)
    head, embedding = (dict(tree_flatten(part.parameters())) for part in parts)
    if head.keys() == embedding.keys() and all(mx.array_equal(head[name], embedding[name]) for name in head):
        language.lm_head = TiedHead(language.model, "embed_tokens")


def fix_siglip(module: nn.Module) -> None:
    """Give a SigLIP tower's last norm the configured epsilon.

    mlx-vlm leaves it at MLX's 1e-5 (gemma3/vision.py:87, paligemma/vision.py:87).
    """
    tower = module.vision_tower.vision_model
    tower.post_layernorm.eps = module.config.vision_config.layer_norm_eps


def finish_gemma3(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark each image as a block, and scale the embeddings as published.

    Text is multiplied by the root of the width and images are not. mlx-vlm multiplies all by that root, rounded to
    bfloat16 even for a model in float32 (gemma3/language.py:210), and divides images by the root of
    `config.hidden_size`, which published configurations do not set, so that it is the default 2048 and not the text
    model's width (gemma3/gemma3.py:139).
    """
    is_image = np.array(tokens)[0] == module.config.image_token_index
    embeds = fields["inputs_embeds"]
    scale = np.where(is_image, module.config.hidden_size**0.5, module.config.text_config.hidden_size**0.5)
    embeds = embeds * mx.array(scale.astype(np.float32))[None, :, None].astype(embeds.dtype)
    return {**fields, "inputs_embeds": embeds, "blocks": number_runs(is_image)}


def scaled_already(module: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 3 not scale the embeddings that it is given."""
    return override_attributes(module.language_model.model, scale_inputs_embeds=False)


def gemma3_masks(model: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 3's full and sliding layers take masks of their own."""
    language = model.language_model.model
    pattern = language.sliding_window_pattern
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for number, layer in enumerate(language.layers):
        divided["full" if number % pattern == pattern - 1 else "sliding"].append(layer.self_attn)
    return own_masks(divided)


def forward_gemma3(model: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Gemma 3's language model with bidirectional attention inside each image.

    mlx-vlm builds a mask from the 2-D one that is not causal at all (gemma3/gemma3.py:169), and takes one mask for
    full and sliding layers alike (gemma3/language.py:234).
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks"), fields.pop(SEGMENTS, None)
    window = model.language_model.config.sliding_window
    masks = {"full": block_mask(blocks, segments=segments), "sliding": block_mask(blocks, window, segments=segments)}
    logits: mx.array = model.language_model(tokens, mask=masks, cache=None, **fields).logits
    return logits


# ---------------------------------------------------------------------------------------------
# PaliGemma


def embed_paligemma(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row, all of its images, and mark the prompt as a block, as the processor's token types say.

    The language model multiplies all embeddings by the root of its width, and images are not to be scaled: they are
    divided by it. mlx-vlm divides them by the root of `config.hidden_size` (paligemma/paligemma.py:97), which is 2048
    unless it is configured, takes the first image alone (paligemma/vision.py:49), and puts its features at the row's
    beginning whatever stands there (paligemma/paligemma.py:118).
    """
    embeds = module.language_model.model.embed_tokens(tokens)
    if "pixel_values" not in inputs:
        return {"inputs_embeds": embeds, "blocks": mx.zeros(tokens.shape, dtype=mx.int32)}
    pixels = inputs["pixel_values"].transpose(0, 2, 3, 1).astype(embeds.dtype)
    *_, states = module.vision_tower(pixels, output_hidden_states=True)
    hidden = module.vision_tower.vision_model.post_layernorm(states[-1])
    features = module.multi_modal_projector(hidden).flatten(0, 1)
    features = features / mx.array(module.config.text_config.hidden_size**0.5, dtype=features.dtype)
    is_image = np.array(tokens) == module.config.image_token_index
    return {
        "inputs_embeds": scatter_features(embeds, features, is_image),
        "blocks": (inputs["token_type_ids"] == 0).astype(mx.int32),
    }


def paligemma_masks(module: nn.Module) -> AbstractContextManager[None]:
    """Let PaliGemma 2's full and sliding layers take masks of their own; mlx-vlm gives all the full one."""
    language = module.language_model
    kinds = language.config.layer_types or ["full_attention"] * len(language.model.layers)
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for kind, layer in zip(kinds, language.model.layers, strict=True):
        divided["sliding" if kind == "sliding_attention" else "full"].append(layer.self_attn)
    return own_masks(divided)


def forward_paligemma(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a prefix language model: the prompt sees itself whole, the answer what is before it.

    mlx-vlm's 2-D mask lets every token see all (paligemma/paligemma.py:134).
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks"), fields.pop(SEGMENTS, None)
    window = module.language_model.config.sliding_window
    sliding = block_mask(blocks, window, whole_blocks=True, segments=segments)
    masks = {"full": block_mask(blocks, segments=segments), "sliding": sliding}
    logits: mx.array = module.language_model(tokens, mask=masks, cache=None, **fields).logits
    return logits


# ---------------------------------------------------------------------------------------------
# Gemma 4


GEMMA4_BUFFERS = (
    *("layer_scalar", "std_bias", "std_scale"),
    *("input_min", "input_max", "output_min", "output_max"),
)
"""Buffers of the published model, which mlx-vlm holds as parameters."""


def finish_gemma4(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Mark each image as a block, where images see themselves whole.

    In the tables of the layers' own inputs, images have the entry of the padding token, which transformers does not
    train.
    """
    is_image = np.array(tokens)[0] == module.config.image_token_id
    fields = hold_padding(fields, is_image)
    if module.config.text_config.use_bidirectional_attention != "vision":
        return fields
    return {**fields, "blocks": number_runs(is_image)}


def hold_padding(fields: LMInputs, is_padding: BoolArray) -> LMInputs:
    """Let the layers' own inputs of some tokens, bool[T], not train the table that they are from."""
    inputs = fields.get("per_layer_inputs")
    if inputs is None:
        return fields
    held = mx.where(mx.array(is_padding)[None, :, None, None], mx.stop_gradient(inputs), inputs)
    return {**fields, "per_layer_inputs": held}


def gemma4_masks(module: nn.Module) -> AbstractContextManager[None]:
    """Let Gemma 4's full and sliding layers take masks of their own."""
    divided: dict[str, list[nn.Module]] = {"full": [], "sliding": []}
    for layer in module.language_model.model.layers:
        divided["sliding" if layer.layer_type == "sliding_attention" else "full"].append(layer.self_attn)
    return own_masks(divided)


def forward_gemma4(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Gemma 4's language model, in whose sliding layers alone images see themselves, within the window.

    mlx-vlm lets images see themselves in all layers and beyond the window (gemma4/language.py:546), and reads values
    back to find out whether there are images (gemma4/language.py:494), which a trace cannot.
    """
    fields = dict(fields)
    blocks, segments = fields.pop("blocks", mx.zeros(tokens.shape, dtype=mx.int32)), fields.pop(SEGMENTS, None)
    window = module.language_model.config.sliding_window
    masks = {
        "full": block_mask(mx.zeros_like(blocks), segments=segments),
        "sliding": block_mask(blocks, window, segments=segments),
    }
    return call_language_model(module, tokens, {**fields, "mask": masks})


# ---------------------------------------------------------------------------------------------
# Gemma 3n


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


def upright_images(module: nn.Module) -> AbstractContextManager[None]:
    """Put an image's features in the order in which it is read: along rows.

    mlx-vlm's fusion of the tower's features exchanges rows and columns and not back (gemma3n/vision.py:102), so that
    Gemma 3n would see every image mirrored at its diagonal.
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
    """Give Gemma 3n's tower the padding, the activation and the epsilon that it was trained with.

    Keys and values are thinned out with padding below and to the right; mlx-vlm pads on all sides
    (gemma3n/vision.py:572), so that they lie a pixel off. Its activation is exact (:147) and its norms' epsilon larger
    (:198). So corrected, the blocks are timm's to 1e-5 with the same weights.
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
    """Let the padding token, whose entry images have in the tables of the layers' own inputs, not be trained."""
    ids = np.array(tokens)[0]
    return hold_padding(fields, (ids >= module.config.text_config.vocab_size_per_layer_input) | (ids == 0))


@contextmanager
def kept_coefficients(module: nn.Module) -> Iterator[None]:
    """Let a forward not change AltUp's weights.

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
    return call_language_model(module, tokens, {**fields, "cache": caches})
