"""The two calls that every family of mlx-vlm answers: embed a row, run the language model."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..types import Example
from .corrections import called_as, instance_attributes
from .fields import LOGIT_PLACES, Fields

NOT_PASSED = ("attention_mask", "attention_mask_4d", "decoder_inputs_embeds", "rope_deltas")
"""What `get_input_embeddings` returns and causal language models must not get: masks of a single row that are not
causal, and positions of the next token."""


def embed_alone(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> Fields:
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


def embed_one_view(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> Fields:
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


def mark_nothing(_: Example) -> Fields:
    """Add nothing; most language models do not care which tokens are answers."""
    return {}


def keep_fields(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: Fields) -> Fields:
    """Add nothing; most language models need no more than `embed_alone` finds."""
    return fields


def call_language_model(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run the language model: the ids first, under whatever name, the rest by keyword, no 2-D mask and no cache."""
    output = module.language_model(tokens, **{"mask": None, "cache": None, **fields})
    logits: mx.array = output.logits
    return logits


def expand_places(module: nn.Module, tokens: mx.array, _: dict[str, Any], fields: Fields) -> Fields:
    """Say where the logits stand of a row whose image placeholders expand within the model.

    The text between the images is found again among the embeddings, in order; the logit that predicts a token is
    the one before that token's own embedding.

    Raises:
        ValueError: The text's embeddings are not all among the model's.
    """
    ids = np.array(tokens[0])
    embeds = np.array(fields["inputs_embeds"][0].astype(mx.float32))
    text = np.array(module.language_model.model.embed_tokens(mx.maximum(tokens, 0))[0].astype(mx.float32))
    is_text = ids >= 0
    for name in ("image_token_index", "image_token_id"):
        if getattr(module.config, name, None) is not None:
            is_text &= ids != getattr(module.config, name)
    places = np.zeros(len(ids), dtype=np.int32)
    start = 0
    runs = np.flatnonzero(np.diff(np.concatenate([[False], is_text, [False]]).astype(np.int8))).reshape(-1, 2)
    for first, end in runs.tolist():
        length = end - first
        last = len(embeds) - length
        fits = (at for at in range(start, last + 1) if np.array_equal(embeds[at : at + length], text[first:end]))
        # The last run ends the row: nothing has to be searched for.
        start = last if end == len(ids) and np.array_equal(embeds[last:], text[first:end]) else next(fits, -1)
        if start < 0:
            msg = "the text is not found again among the embeddings"
            raise ValueError(msg)
        places[first:end] = np.arange(start, start + length)
        start += length
    logit_places = np.maximum(np.append(places[1:], len(embeds)) - 1, 0)
    return {**fields, LOGIT_PLACES: mx.array(logit_places.astype(np.int32))[None]}


PROMPT = "prompt_ids"
"""i32[1, S] among a row's inputs: what the encoder of an encoder-decoder reads; `Example.tokens` are the decoder's."""


def embed_prompt(module: nn.Module, _: mx.array, inputs: dict[str, Any]) -> Fields:
    """Embed the prompt and image of an encoder-decoder; the encoder itself runs with the decoder."""
    others = {name: value for name, value in inputs.items() if name not in ("pixel_values", PROMPT)}
    features = module.get_input_embeddings(inputs.get(PROMPT), inputs.get("pixel_values"), **others)
    embeds = features.inputs_embeds
    return {"encoder_embeds": embeds, "encoder_mask": mx.ones(embeds.shape[:2], dtype=mx.bool_)}


def run_encoder_decoder(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Encode the prompt, decode the tokens; padding of the prompt is masked in both."""
    output = module.language_model(
        None,
        inputs_embeds=fields["encoder_embeds"],
        attention_mask=fields["encoder_mask"][:, None, None],
        decoder_input_ids=tokens,
    )
    logits: mx.array = output.logits
    return logits


def run_decoder(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Decode the tokens of a model whose encoder is the vision tower; all images have one length."""
    logits: mx.array = module.language_model(
        None, encoder_outputs=fields["encoder_embeds"], decoder_input_ids=tokens
    ).logits
    return logits


def run_ignoring_ids(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run a language model that drops the embeddings it is given and embeds the ids (deepseek_v3/language.py:510).

    Mistral Large 3 would not see its images otherwise, in mlx-vlm's own generation too.
    """
    table = module.language_model.model.embed_tokens
    with called_as(table, lambda *_: fields["inputs_embeds"]):
        logits: mx.array = module.language_model(tokens, cache=None).logits
    return logits


def complete_ernie(module: nn.Module, tokens: mx.array, inputs: dict[str, Any], fields: Fields) -> Fields:
    """Find the positions and token types that ERNIE's forward computes from the image grid, reading values back."""
    positions, _ = module.language_model.get_rope_index(tokens, inputs.get("image_grid_thw"), None, None)
    token_types = (tokens == module.config.image_token_id).astype(mx.int32)
    return {**fields, "position_ids": mx.moveaxis(positions, -1, 0), "token_type_ids": token_types}


def run_ernie(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run ERNIE's language model, whose positions are [B, T, 3]."""
    return call_language_model(module, tokens, {**fields, "position_ids": mx.moveaxis(fields["position_ids"], 0, -1)})


def run_with_fresh_cache(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Run a language model that is causal only with a cache."""
    return call_language_model(module, tokens, {**fields, "cache": module.language_model.make_cache()})


class AlongTokens:
    """Features f[B, T, D] that are sliced along T where a model written for one row slices its first axis."""

    def __init__(self, features: mx.array) -> None:
        self._features = features

    def __getitem__(self, tokens: slice) -> mx.array:
        """Slice along T."""
        return self._features[:, tokens]


def run_granite4(module: nn.Module, tokens: mx.array, fields: Fields) -> mx.array:
    """Add each row's own image features in the layers; mlx-vlm takes row 0's (granite4_vision/language.py:176).

    Which layers is said here: mlx-vlm leaves it on the module when it embeds (granite4_vision/granite4_vision.py:276).
    """
    config = module.config
    targets = [layer for _, layer in config.deepstack_layer_map or ()]
    if config.use_spatial_sampling:
        targets += config.spatial_target_layers or ()
    layers = [AlongTokens(layer) for layer in fields.get("deepstack_visual_embeds", ())]
    with instance_attributes(module.language_model.model, _deepstack_target_layers=targets):
        return call_language_model(module, tokens, {**fields, "deepstack_visual_embeds": layers} if layers else fields)


def complete_moondream(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: Fields) -> Fields:
    """Pass the mask under which the image sees itself whole."""
    if "attention_mask_4d" not in fields:
        return fields
    return {**fields, "mask": fields["attention_mask_4d"]}
