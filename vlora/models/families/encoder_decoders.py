"""Encoder-decoders: Florence-2, and Nemotron-Parse, which encodes only images.

A row's tokens are the decoder's. Files and lines are those of mlx-vlm 0.7.10.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..forward.lm_inputs import PROMPT, Layouts, LMInputs, PadSpec
from ..forward.tied_head import TiedHead

STATES = "image_states"
"""f[1, S, D]: what the decoder attends to where the tower is the encoder. All images have one number of states."""

PROMPT_INPUTS: Layouts = {
    "encoder_embeds": PadSpec(padding="edge", carries_gradient=True, is_prompt=True),
    "encoder_mask": PadSpec(is_prompt=True),
}
"""Where the encoder reads a prompt."""

STATES_INPUTS: Layouts = {STATES: PadSpec(token_axes=(), carries_gradient=True)}
"""Where the tower is the encoder."""

ENCODES = "the encoder and the decoder run together, and neither keeps anything"
"""Why rows are read anew for each token of an answer."""


def fix_table(module: nn.Module) -> None:
    """Let encoder, decoder and head share their table under one name.

    A forward assigns it to both again (florence2/language.py:374, nemotron_parse/language.py:244), so that it
    would be trained under two names and saved under names that loading does not know; and the head of a published
    model is a copy of it (florence2/florence2.py:398, nemotron_parse/nemotron_parse.py:152), whose training would be
    lost.
    """
    language = module.language_model
    for part in (language.model.get("encoder"), language.model.decoder):
        if part is not None:
            part.pop("embed_tokens", None)
            part.__class__ = _with_unlisted_table(type(part))
            part.embed_tokens = language.model.shared
    parts = (language.lm_head, language.model.shared)
    head, table = (dict(tree_flatten(part.parameters())) for part in parts)
    if head.keys() == table.keys() and all(mx.array_equal(head[name], table[name]) for name in head):
        language.lm_head = TiedHead(language.model, "shared")


def _with_unlisted_table(cls: type) -> type:
    set_own: Any = cls.__setattr__

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        if name == "embed_tokens":
            object.__setattr__(self, name, value)  # not as a module of its own
        else:
            set_own(self, name, value)

    return type(cls.__name__, (cls,), {"__setattr__": set_attribute})


def embed_prompt(module: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed the prompt and image of an encoder-decoder; the encoder itself runs with the decoder."""
    if not inputs:  # not a row of data: the head is searched with it
        own = module.language_model.model.shared(tokens)
        return {"encoder_embeds": own, "encoder_mask": mx.ones(own.shape[:2], dtype=mx.bool_)}
    others = {name: value for name, value in inputs.items() if name not in ("pixel_values", PROMPT)}
    features = module.get_input_embeddings(inputs.get(PROMPT), inputs.get("pixel_values"), **others)
    embeds = features.inputs_embeds
    return {"encoder_embeds": embeds, "encoder_mask": mx.ones(embeds.shape[:2], dtype=mx.bool_)}


def embed_states(module: nn.Module, _: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Encode the image of a model whose encoder is the tower."""
    if not inputs:  # not a row of data: the head is searched with it
        return {STATES: mx.ones((1, 1, module.language_model.config.d_model))}
    return {STATES: module.vision_tower(inputs["pixel_values"])}


class NoCache:
    """An empty cache for decoders that require one, so that a layer can run twice.

    Caches of mlx-vlm's own would keep the keys of the first run of a recomputed layer (florence2/language.py:103,
    nemotron_parse/language.py:84).
    """

    keys = None
    offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return the arguments."""
        return keys, values


def _no_caches(module: nn.Module) -> list[tuple[NoCache, NoCache]]:
    return [(NoCache(), NoCache())] * len(module.language_model.model.decoder.layers)


def forward_encoder_decoder(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Encode the prompt, decode the tokens; padding of the prompt is masked in both."""
    output = module.language_model(
        None,
        inputs_embeds=fields["encoder_embeds"],
        attention_mask=fields["encoder_mask"][:, None, None],
        decoder_input_ids=tokens,
        cache=_no_caches(module),
    )
    logits: mx.array = output.logits
    return logits


def forward_decoder(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Decode the tokens of a model whose encoder is the tower."""
    output = module.language_model(
        None, encoder_outputs=fields[STATES], decoder_input_ids=tokens, cache=_no_caches(module)
    )
    logits: mx.array = output.logits
    return logits
