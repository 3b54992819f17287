"""Qwen's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import mlx.nn as nn

from ...data.format.boxes import (
    QWEN2_BOXES,
    QWEN3_BOXES,
    QWEN25_BOXES,
)
from ..forward.corrections import approximate_gelu, undifferentiated_indices
from ..forward.merging import dense_deepstack
from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain, replaced_functions
from .family import STATES, Family, Format, Forward, Parts


@contextmanager
def match_reference_qwen3_activations(model: nn.Module) -> Iterator[None]:
    """Correct the activations in the tower of Qwen3-VL's mixtures.

    The layers use the approximation (`hidden_act` of the configuration), the mergers do not. mlx-vlm exchanges them in
    qwen3_vl_moe (qwen3_vl_moe/vision.py:109, :163) and exact everywhere in qwen3_omni_moe
    (qwen3_omni_moe/vision.py:163).
    """
    parts = dict(model.named_modules())
    tower = next(parts[name] for name in sorted(parts, key=len) if name.endswith("vision_tower"))
    mergers = (tower.merger, *tower.deepstack_merger_list)
    with approximate_gelu("tanh", *tower.blocks), approximate_gelu("none", *mergers):
        yield


def unevaluated(_: nn.Module) -> AbstractContextManager[None]:
    """Prevent the language model from evaluating its positions: a trace cannot (qwen3_omni_moe/language.py:648)."""
    return replaced_functions(eval=lambda *_: None)


FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": Family(
        is_proven=True,
        format=Format(takes_sizes=True, boxes=QWEN2_BOXES),
        forward=Forward(packs=True, has_grid_tower=True),
    ),
    "qwen2_5_vl": Family(
        is_proven=True,
        format=Format(takes_sizes=True, boxes=QWEN25_BOXES),
        forward=Forward(packs=True, has_grid_tower=True),
    ),
    "qwen3_vl": Family(
        is_proven=True,
        format=Format(takes_sizes=True, boxes=QWEN3_BOXES),
        forward=Forward(packs=True, has_grid_tower=True, train_overrides=dense_deepstack),
    ),
    "qwen3_vl_moe": Family(
        is_proven=True,
        format=Format(takes_sizes=True, boxes=QWEN3_BOXES),
        forward=Forward(
            packs=True,
            has_grid_tower=True,
            embed_overrides=match_reference_qwen3_activations,
            train_overrides=dense_deepstack,
        ),
        upstream_differs="the tower's exact and approximated activations are exchanged (vision.py:109, :163)",
    ),
    "qwen3_5": Family(
        is_proven=True,
        format=Format(takes_sizes=True, boxes=QWEN3_BOXES),
        forward=Forward(has_grid_tower=True, equal_prompts=STATES),
    ),
    "qwen3_5_moe": Family(
        format=Format(takes_sizes=True, boxes=QWEN3_BOXES), forward=Forward(has_grid_tower=True, equal_prompts=STATES)
    ),
    "qwen3_omni_moe": Family(
        format=Format(boxes=QWEN3_BOXES),
        forward=Forward(
            packs=True,
            embed_overrides=match_reference_qwen3_activations,
            train_overrides=chain(dense_deepstack, unevaluated),
        ),
        upstream_differs="the tower's activation is exact, where it was trained approximated (vision.py:163)",
    ),
    "qwen4_exp": Family(
        parts=Parts(selectors=("indexer",)),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, without_metal_kernels),
            eager="it reads back which rows of its n-gram tables are needed",
            equal_prompts=STATES,
        ),
    ),
}
