"""Kimi's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..forward.corrections import approximate_gelu, forget_attributes
from ..forward.merging import merge_by_gather
from ..forward.overrides import chain, override_attributes, override_call
from ..forward.resize import resize_bicubic
from .family import STATES, Family, Forward, Parts

MOONVIT_EPSILON = 1e-5


merge_for_multimodal = merge_by_gather("_prepare_inputs_for_multimodal")


_MIXED_WEIGHTS = forget_attributes("_attn_res_w_eff", "_mlp_res_w_eff", "_output_res_w_eff")


@contextmanager
def match_reference_moonvit(model: nn.Module) -> Iterator[None]:
    """Correct the activation, the epsilon and the interpolation of Kimi-VL's tower.

    mlx-vlm has the exact activation (kimi_vl/vision.py:228), a smaller epsilon (:241, :409), and positions that are
    interpolated as if there were nothing beyond the border (models/kernels.py:166; on Metal a kernel without gradient).
    """
    table = model.vision_tower.patch_embed.pos_emb

    def positions(shape: tuple[int, int]) -> mx.array:
        return resize_bicubic(table.weight, shape).flatten(0, 1)

    with _moonvit_numbers(model.vision_tower), override_attributes(table, _get_pos_emb=positions):
        yield


@contextmanager
def match_reference_moonvit_3d(model: nn.Module) -> Iterator[None]:
    """Correct the activation, the epsilon and the interpolation of Kimi K2.5's tower.

    As for Kimi-VL: kimi_k25/vision.py:245 (activation), :258, :444 (epsilon), :101 (positions). Videos use mlx-vlm's.
    """
    table = model.vision_tower.patch_embed.pos_emb
    own = type(table).__call__

    def add_positions(patches: mx.array, grids: mx.array) -> mx.array:
        if grids.shape[1] != 2:  # noqa: PLR2004 - height and width; videos have a third
            added: mx.array = own(table, patches, grids)
            return added
        shapes = [(int(height), int(width)) for height, width in np.array(grids)]
        positions = [resize_bicubic(table.weight, shape).flatten(0, 1) for shape in shapes]
        return mx.add(patches, mx.concatenate(positions).astype(patches.dtype))

    with _moonvit_numbers(model.vision_tower), override_call(table, add_positions):
        yield


@contextmanager
def _moonvit_numbers(tower: nn.Module) -> Iterator[None]:
    norms = [module for _, module in tower.named_modules() if isinstance(module, nn.LayerNorm)]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = MOONVIT_EPSILON
        with approximate_gelu("tanh", tower):
            yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.eps = own


FAMILIES: Mapping[str, Family] = {
    "kimi_vl": Family(
        forward=Forward(packs=True, embed_overrides=match_reference_moonvit),
        upstream_differs=(
            "the tower has another activation, epsilon and positions (kimi_vl/vision.py:228, :241, kernels.py:166)"
        ),
    ),
    "kimi_k25": Family(
        forward=Forward(packs=True, embed_overrides=chain(merge_for_multimodal, match_reference_moonvit_3d)),
        upstream_differs=(
            "the tower has another activation, epsilon and positions (kimi_k25/vision.py:245, :258, :101)"
        ),
    ),
    "kimi_k3": Family(
        parts=Parts(
            checkpointed_part="mlp",
            no_adapter=("self_attention_res_proj", "mlp_res_proj", "output_attn_res_proj"),
            without_experts="mlx-vlm attaches theirs only with those of all layers, and reads weights of some directly",
        ),
        forward=Forward(embed_overrides=_MIXED_WEIGHTS, train_overrides=_MIXED_WEIGHTS, equal_prompts=STATES),
    ),
}
