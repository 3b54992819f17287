"""The two calls that every family of mlx-vlm answers: embed a row, run the language model."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.rope_utils import SuScaledRoPE

from ...types import Example
from .attention_masks import masks_within
from .lm_inputs import SEGMENTS, LMInputs
from .overrides import override_attributes, override_call, scatter_features

NOT_PASSED = ("attention_mask", "attention_mask_4d", "decoder_inputs_embeds", "rope_deltas")
"""What `get_input_embeddings` returns and causal language models must not get: masks of a single row that are not
causal, and positions of the next token."""


def embed_alone(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed one row as the model does when it generates.

    Args:
        module: The model.
        tokens: i32[1, T].
        inputs: The processor's other outputs, on the device.

    Returns:
        All that the model returns, and the positions that some families only leave on the language model.
    """
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    features = module.get_input_embeddings(tokens, inputs.get("pixel_values"), mask=mx.ones_like(tokens), **others)
    fields = {name: value for name, value in features.to_dict().items() if value is not None}
    held = getattr(module.language_model, "_position_ids", None)
    if held is not None and "position_ids" not in fields:
        fields["position_ids"] = held
    return fields


def embed_one_view(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row with one image at most.

    DeepSeek-OCR puts the first image's features in the place of all images (deepseekocr/deepseekocr.py:302); its second
    version leaves the second image's tokens as they are, or has too many (deepseekocr_2/deepseekocr_2.py:169).

    Raises:
        ValueError: The row has more.
    """
    pixels = inputs.get("pixel_values")
    if pixels is not None and pixels[1].shape[0] > 1:
        msg = f"{pixels[1].shape[0]} images; mlx-vlm's model reads one in a row"
        raise ValueError(msg)
    return embed_alone(module, tokens, inputs)


def label_nothing(_: Example) -> LMInputs:
    """Add nothing; most language models do not care which tokens are answers."""
    return {}


def keep_inputs(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Add nothing; most language models need no more than `embed_alone` finds."""
    return fields


def call_language_model(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run the language model: the ids first, under whatever name, the rest by keyword, no 2-D mask and no cache.

    Packed rows are kept apart by the masks that the model makes; one that is given has to do so itself.
    """
    fields = dict(fields)
    segments = fields.pop(SEGMENTS, None)
    with masks_within(module, segments):
        output = module.language_model(tokens, **{"mask": None, "cache": None, **fields})
    logits: mx.array = output.logits
    return logits


def forward_ignoring_ids(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a language model that drops the embeddings it is given and embeds the ids (deepseek_v3/language.py:510).

    Mistral Large 3 would not see its images otherwise, in mlx-vlm's own generation too.
    """
    table = module.language_model.model.embed_tokens
    embedded = override_call(table, lambda *_: fields["inputs_embeds"])
    with embedded, masks_within(module, fields.get(SEGMENTS)):
        logits: mx.array = module.language_model(tokens, cache=None).logits
    return logits


def finish_ernie(module: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Find the positions and token types that ERNIE's forward computes from the image grid, reading values back."""
    positions, _ = module.language_model.get_rope_index(tokens, inputs.get("image_grid_thw"), None, None)
    token_types = (tokens == module.config.image_token_id).astype(mx.int32)
    return {**fields, "position_ids": mx.moveaxis(positions, -1, 0), "token_type_ids": token_types}


def forward_ernie(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run ERNIE's language model, whose positions are [B, T, 3]."""
    return call_language_model(module, tokens, {**fields, "position_ids": mx.moveaxis(fields["position_ids"], 0, -1)})


def forward_with_fresh_cache(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a language model that is causal only with a cache."""
    return call_language_model(module, tokens, {**fields, "cache": module.language_model.make_cache()})


class AlongTokens:
    """Features f[B, T, D] that are sliced along T where a model written for one row slices its first axis."""

    def __init__(self, features: mx.array) -> None:
        self._features = features

    def __getitem__(self, tokens: slice) -> mx.array:
        """Slice along T."""
        return self._features[:, tokens]


def forward_granite4(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Add each row's own image features in the layers; mlx-vlm takes row 0's (granite4_vision/language.py:176).

    Which layers is said here: mlx-vlm leaves it on the module when it embeds (granite4_vision/granite4_vision.py:276).
    """
    config = module.config
    targets = [layer for _, layer in config.deepstack_layer_map or ()]
    if config.use_spatial_sampling:
        targets += config.spatial_target_layers or ()
    layers = [AlongTokens(layer) for layer in fields.get("deepstack_visual_embeds", ())]
    with override_attributes(module.language_model.model, _deepstack_target_layers=targets):
        return call_language_model(module, tokens, {**fields, "deepstack_visual_embeds": layers} if layers else fields)


def finish_deepstack(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Spread the features that go into deeper layers over the row: f[N, D] per layer to f[1, T, D]."""
    if "deepstack_visual_embeds" not in fields:
        return fields
    # Cohere Compass keeps them with their places.
    layers = fields["deepstack_visual_embeds"].embeddings
    is_image = np.array(fields["visual_pos_masks"])
    blank = mx.zeros_like(fields["inputs_embeds"])
    dense = [scatter_features(blank, layer, is_image) for layer in layers]
    return {**fields, "deepstack_visual_embeds": dense}


def finish_hunyuan(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Give every row positions along all axes, which the language model would read back from the ids; i32[R, 1, T]."""
    n_axes = len(module.config.text_config.rope_scaling["xdrope_section"])
    count = mx.broadcast_to(mx.arange(tokens.shape[1]), (1, n_axes, tokens.shape[1]))
    return {**fields, "position_ids": mx.swapaxes(fields.get("position_ids", count), 0, 1)}


def forward_hunyuan(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run HunYuan's language model, whose positions are [B, R, T] and stay on it (hunyuan_vl/language.py:461)."""
    language_model = module.language_model
    language_model._position_ids = None  # noqa: SLF001
    try:
        return call_language_model(
            module, tokens, {**fields, "position_ids": mx.swapaxes(fields["position_ids"], 0, 1)}
        )
    finally:
        language_model._position_ids = None  # noqa: SLF001


def finish_phi3(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Say of a row whether it is longer than what the rotary embedding's short factors are for; bool[1, T]."""
    return {
        **fields,
        "is_long": mx.full(tokens.shape, tokens.shape[1] > module.config.original_max_position_embeddings),
    }


def forward_phi3(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Phi-3-vision under `rotated_by_own_length`."""
    module._rows_are_long[:] = [fields["is_long"][:, None, :, None]]  # noqa: SLF001
    return call_language_model(module, tokens, {name: value for name, value in fields.items() if name != "is_long"})


@contextmanager
def rotated_by_own_length(module: nn.Module) -> Iterator[None]:
    """Let each example of a batch have the rotary embedding of its own length, whatever the longest row's is.

    The published model chooses between short and long factors by the batch's length (rope_utils.py:169). Layers that
    are recomputed run after `forward_phi3`, so that what it was given stays until the gradient is done.
    """
    is_long: list[mx.array] = []

    def rotate(rope: nn.Module) -> AbstractContextManager[None]:
        def by_row(hidden: mx.array, offset: int = 0) -> mx.array:
            long, short = (
                mx.fast.rope(
                    mx.concatenate([scale.astype(hidden.dtype) * hidden[..., : rope.dim], hidden[..., rope.dim :]], -1),
                    rope.dim,
                    traditional=False,
                    base=None,
                    scale=1.0,
                    offset=offset,
                    freqs=freqs,
                )
                for scale, freqs in ((rope._long_scale, rope._long_freqs), (rope._short_scale, rope._short_freqs))  # noqa: SLF001
            )
            return mx.where(is_long[0], long, short)

        return override_call(rope, by_row)

    with ExitStack() as stack:
        stack.enter_context(override_attributes(module, _rows_are_long=is_long))
        for _, part in module.named_modules():
            if isinstance(part, SuScaledRoPE):
                stack.enter_context(rotate(part))
        yield


def finish_moondream(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Pass the mask under which the image sees itself whole."""
    if "attention_mask_4d" not in fields:
        return fields
    return {**fields, "mask": fields["attention_mask_4d"]}
