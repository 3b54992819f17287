"""DeepSeek's families, and those built on its models. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...data.format.boxes import (
    DEEPSEEK_BOXES,
)
from ...errors import ModelError
from ...types import Example
from ..forward.attention_masks import in_one_segment, segment_mask
from ..forward.calls import call_language_model, embed_alone
from ..forward.corrections import undifferentiated_indices
from ..forward.lm_inputs import SEGMENTS, LMInputs, PadSpec
from .deep_encoder import match_reference_deep_encoder, match_reference_sam
from .family import Family, Format, Forward, Parts

TIMM_EPS = 1e-6
"""Of norms in timm's towers."""

DEEPSEEK_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|Assistant|>: {{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'user' %}<|User|>: {{ message['content'] }}\n\n"
    "{% else %}{{ message['content'] }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)
"""DeepSeek-VL2's published conversation format. mlx-vlm's processor writes answers after "<|Assistant|> " but asks
for them after "<|Assistant|>:", and never ends them (processing_deepsek_vl_v2.py:185)."""


LATENT_EPSILON = 1e-6

Inputs = dict[str, Any]


def fix_deepseek(module: nn.Module) -> None:
    """Correct the rotation and the epsilon of DeepSeek-VL2's latent attention.

    The elements of a rotated pair are adjacent; mlx-vlm rotates the first half against the second, unless config.json
    says `rope_traditional`, which no published one does (deepseek_vl_v2/config.py:35, language.py:150). The latents'
    norms have mlx's epsilon (language.py:123, :133), where the published model's is 1e-6. The smallest model, without
    latents, is a Llama and right.

    Raises:
        ModelError: Its experts are chosen in another way than the greedy one, of which mlx-vlm leaves a part out.
    """
    for layer in module.language_model.model.layers:
        attention = layer.self_attn
        if "gate" in layer.mlp and layer.mlp.gate.topk_method != "greedy":
            msg = (
                f"the experts of this DeepSeek-VL2 are chosen by {layer.mlp.gate.topk_method!r}, and "
                "mlx-vlm 0.7.10 leaves their correction and the normalization of their weights out "
                "(deepseek_vl_v2/language.py:335); only models that choose greedily are trained"
            )
            raise ModelError(msg, key="model.path")
        if "kv_a_layernorm" not in attention:
            continue
        for name in ("kv_a_layernorm", "q_a_layernorm"):
            if name in attention:
                attention[name].eps = LATENT_EPSILON
        if isinstance(attention.rope, nn.RoPE):
            attention.rope.traditional = True


def pad_spatial_crop(inputs: Inputs) -> Inputs:
    """Add the empty entries that end DeepSeek's list of image crops.

    `get_input_embeddings` (deepseek_vl_v2.py:333) reads one entry per tile until it meets an empty one; the
    processor writes one per image, and MLX reads on out of bounds.
    """
    crop = inputs.get("images_spatial_crop")
    if crop is None or inputs.get("pixel_values") is None:
        return inputs
    crop = np.asarray(crop)
    n_missing = inputs["pixel_values"].shape[1] - crop.shape[1]
    padded = np.pad(crop, ((0, 0), (0, max(1, n_missing)), (0, 0)))
    return {**inputs, "images_spatial_crop": padded}


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


def forward_with_fresh_cache(module: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run a language model that is causal only with a cache."""
    return call_language_model(module, tokens, {**fields, "cache": module.language_model.make_cache()})


def label_answers(example: Example) -> LMInputs:
    """Return for each token the start of its answer; a token outside of answers is its own start."""
    place = np.arange(len(example.tokens))
    opens = example.supervised & ~np.concatenate([[False], example.supervised[:-1]])
    starts = np.where(example.supervised, np.maximum.accumulate(np.where(opens, place, 0)), place)
    return {"answer_starts": mx.array(starts.astype(np.int32))[None]}


def forward_windowed_answers(model: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Unlimited-OCR's language model: an answer sees everything before it, and a window of itself.

    mlx-vlm does so only token by token, with a cache (unlimited_ocr/language.py:12); without one the window is missing.
    """
    fields = dict(fields)
    starts, segments = fields.pop("answer_starts"), fields.pop(SEGMENTS, None)
    config = model.language_model.config
    window = config.sliding_window_size or config.sliding_window
    mask = answer_mask(starts, window) if window else None
    if segments is not None:
        mask = segment_mask(segments) if mask is None else mask & in_one_segment(segments)
    logits: mx.array = model.language_model(tokens, mask=mask, cache=None, **fields).logits
    return logits


def answer_mask(starts: mx.array, window: int) -> mx.array:
    """Make the attention mask of rows whose answers see a window of themselves.

    Args:
        starts: i32[B, T], as `label_answers` makes it.
        window: How many of its answer's places a token sees, itself included.

    Returns:
        bool[B, 1, T, T], True where the query (third axis) sees the key (fourth).
    """
    place = mx.arange(starts.shape[1])
    distance = place[:, None] - place[None]
    before = place[None, None] < starts[..., None]
    return ((distance >= 0) & (before | (distance < window)))[:, None]


def fix_multi_modality(module: nn.Module) -> None:
    """Give the SigLIP tower of Janus and DeepSeek-VL the published epsilon, and the exact GELU.

    mlx-vlm's norms have 1e-5, as configurations name none (multi_modality/vision.py:183, :244), and its activation is
    an approximation (:150).
    """
    towers = [child for _, child in module.vision_model.named_modules() if "attn_pool" in child]
    for tower in towers:
        tower.norm.eps = TIMM_EPS
        for block in tower.blocks:
            block.norm1.eps = block.norm2.eps = TIMM_EPS
            block.mlp.activation_fn = nn.GELU()


FAMILIES: Mapping[str, Family] = {
    "deepseek_vl_v2": Family(
        is_proven=True,
        format=Format(template=DEEPSEEK_TEMPLATE, boxes=DEEPSEEK_BOXES),
        forward=Forward(
            packs=True, fix_weights=fix_deepseek, fix_inputs=pad_spatial_crop, train_overrides=undifferentiated_indices
        ),
        upstream_differs="halves are rotated against each other, where published ones rotate pairs (language.py:150)",
    ),
    # The type of patches is that of `patch_embed.proj.weight` (deepseek_v4/deepseek_v4.py:32).
    "deepseek_v4": Family(
        parts=Parts(no_adapter=("patch_embed",), selectors=("indexer",), checkpointed_part="ffn"),
        forward=Forward(
            forward=forward_with_fresh_cache,
            train_overrides=undifferentiated_indices,
            eager="its layers read back which rows have images",
            rereads="a pool of earlier tokens is filled in another order token by token",
        ),
    ),
    "deepseek_v41": Family(refused="mlx-vlm 0.7.10's model lets earlier tokens see later ones"),
    "deepseekocr": Family(
        forward=Forward(packs=True, embed=embed_one_view, embed_overrides=match_reference_deep_encoder),
        upstream_differs=(
            "CLIP's activation and resized positions are others (deepseekocr/vision.py:56, :132, sam.py:431)"
        ),
    ),
    "deepseekocr_2": Family(
        forward=Forward(packs=True, embed=embed_one_view, embed_overrides=match_reference_sam),
        upstream_differs="relative positions of tiles are resized otherwise (deepseekocr/sam.py:431)",
    ),
    "unlimited_ocr": Family(
        forward=Forward(
            packs=True,
            own_inputs={"answer_starts": PadSpec(counts_places=True)},
            embed_overrides=match_reference_deep_encoder,
            label_inputs=label_answers,
            forward=forward_windowed_answers,
            rereads="where an answer begins decides what it sees, and its mask is made of whole rows",
        ),
        upstream_differs=(
            "a row is all prompt there, and no answer that sees but a window of itself; CLIP's activation and resized "
            "positions are others (unlimited_ocr/language.py:12, deepseekocr/vision.py:56, :132, sam.py:431)"
        ),
    ),
    # Nothing reads the pooled features of the tower.
    "multi_modality": Family(
        parts=Parts(no_adapter=("attn_pool",)),
        forward=Forward(packs=True, fix_weights=fix_multi_modality),
        upstream_differs="the tower's epsilons and activation are others (multi_modality/vision.py:183, :244, :150)",
    ),
}
