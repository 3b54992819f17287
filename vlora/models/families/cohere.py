"""Cohere's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.lm_inputs import LMInputs
from ..forward.merging import dense_deepstack, merge_features, scatter_features
from ..forward.overrides import chain
from .family import Family, Forward


def finish_deepstack(_: nn.Module, __: mx.array, ___: dict[str, Any], fields: LMInputs) -> LMInputs:
    """Put the features for deeper layers at their places in the row: f[N, D] per layer to f[1, T, D]."""
    if "deepstack_visual_embeds" not in fields:
        return fields
    # Cohere Compass keeps them with their places.
    layers = fields["deepstack_visual_embeds"].embeddings
    is_image = np.array(fields["visual_pos_masks"])
    blank = mx.zeros_like(fields["inputs_embeds"])
    dense = [scatter_features(blank, layer, is_image) for layer in layers]
    return {**fields, "deepstack_visual_embeds": dense}


@contextmanager
def batched_rows(_: nn.Module) -> Iterator[None]:
    """Let Cohere Compass run rows together, head included, instead of one by one (cohere_compass/language.py:134)."""
    from mlx_vlm.models.cohere_compass import language as compass

    rowwise = compass._rowwise_batch  # noqa: SLF001
    compass._rowwise_batch = lambda module, hidden: module(hidden)  # noqa: SLF001
    try:
        yield
    finally:
        compass._rowwise_batch = rowwise  # noqa: SLF001


FAMILIES: Mapping[str, Family] = {
    "aya_vision": Family(forward=Forward(packs=True, embed_overrides=merge_features)),
    "cohere_compass": Family(
        forward=Forward(
            packs=True, finish_inputs=finish_deepstack, train_overrides=chain(dense_deepstack, batched_rows)
        )
    ),
}
