"""Jina-VLM. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.lm_inputs import LMInputs
from .family import Family, Forward, Parts


def embed_jina(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Jina-VLM: features are added to the tokens at the places that the processor writes.

    mlx-vlm adds them one by one, reading every place back (jina_vlm/jina_vlm.py:249), and treats a second image of a
    row as another row's (:237).
    """
    embeds = model.language_model.embedding(tokens)
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return {"inputs_embeds": embeds}
    features = model.get_image_features(pixels, inputs.get("image_masks"))
    places = np.array(inputs["image_input_idx"]).reshape(-1)
    # Overlapping crops have several features for one place; only one of them has it.
    taken = np.flatnonzero((places >= 0) & (places < tokens.shape[1]))
    source = np.zeros(tokens.shape[1], dtype=np.int32)
    source[places[taken]] = taken
    is_image = np.zeros(tokens.shape[1], dtype=np.bool_)
    is_image[places[taken]] = True
    gathered = features.reshape(-1, features.shape[-1])[mx.array(source)].astype(embeds.dtype)
    return {"inputs_embeds": embeds + mx.where(mx.array(is_image)[:, None], gathered, 0)[None]}


ONE_POSITION = "tokens of a batch are rotated by one position (jina_vlm/language.py:44)"
"""Why only prompts of one length are answered together."""

FAMILIES: Mapping[str, Family] = {
    # The type of patches is that of `patch_embed.proj.weight` (jina_vlm/jina_vlm.py:187).
    "jina_vlm": Family(
        parts=Parts(embedding_parts=("language_model.embedding",), no_adapter=("patch_embed",)),
        forward=Forward(
            packs=True,
            embed=embed_jina,
            equal_prompts=ONE_POSITION,
        ),
        upstream_differs="a second image is taken for another row's (jina_vlm/jina_vlm.py:237)",
    ),
}
