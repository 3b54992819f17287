"""Embeds generated tokens as the language model's next inputs."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...types import Example, IntArray
from ..backbone.embed import embed_alone
from ..families.family import Family
from ..forward.lm_inputs import LMInputs

OF_WORDS = ("inputs_embeds", "per_layer_inputs")
"""Inputs of the language model that depend on the token alone."""


def embed_words(module: nn.Module, family: Family, tokens: IntArray) -> LMInputs:
    """Embed single text tokens, the next one of each row.

    Args:
        module: The model.
        family: Its family.
        tokens: i32[B].

    Returns:
        The inputs that depend on the token alone: name to f[B, 1, ...].
    """
    if family.format.is_encoder_decoder:
        return {}
    if family.forward.has_grid_tower:
        return {"inputs_embeds": module.language_model.model.embed_tokens(mx.array(tokens)[:, None])}
    none = np.zeros(len(tokens), dtype=np.bool_)
    example = Example(source="an answer", tokens=tokens, supervised=~none, placeholders=none)
    with family.forward.embed_overrides(module):
        fields = embed_alone(module, family, example)
        return {name: fields[name].swapaxes(0, 1) for name in OF_WORDS if name in fields}
