"""What differs between model families, as data, and what mlx-vlm gets wrong, mended in one place each.

A family that is not listed is run as `Family()` describes: rows embedded one by one, causal attention, no
corrections; before it is trained, `vlora.models.backbone.startup_checks` checks on real rows that this is right for it.
Corrections act on one model's instance and only while a step runs. Versions and lines: mlx-vlm 0.7.10.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ...data.format.boxes import (
    DEEPSEEK_BOXES,
    FLORENCE_BOXES,
    INTERNVL_BOXES,
    PALIGEMMA_BOXES,
    QWEN2_BOXES,
    QWEN3_BOXES,
    QWEN25_BOXES,
)
from ..encode.template.chat_template import (
    FALCON_TEMPLATE,
    GOT_IMAGE,
    GOT_TEMPLATE,
    LLAVA_ONEVISION_TEMPLATE,
    PALIGEMMA_TEMPLATE,
    PLAMO2_TEMPLATE,
)
from ..forward.attention_masks import (
    embed_falcon_ocr,
    finish_molmo2,
    finish_molmo_point,
    forward_falcon_ocr,
    forward_molmo2,
    forward_windowed_answers,
    label_answers,
)
from ..forward.calls import (
    embed_one_view,
    finish_deepstack,
    finish_ernie,
    finish_hunyuan,
    finish_moondream,
    finish_phi3,
    forward_ernie,
    forward_granite4,
    forward_hunyuan,
    forward_ignoring_ids,
    forward_phi3,
    forward_with_fresh_cache,
    rotated_by_own_length,
)
from ..forward.overrides import (
    batched_rows,
    chain,
    chosen_without_gradient,
    dense_deepstack,
    fix_deepseek,
    merge_by_gather,
    no_cross_attention,
    pad_spatial_crop,
    sliced_splits,
    undifferentiated_indices,
    unevaluated,
)
from .encoder_decoders import embed_prompt, embed_states, fix_table, forward_decoder, forward_encoder_decoder
from .expanding import embed_fastvlm, embed_llava_bunny, embed_phi4_siglip, embed_phi4mm
from .family import Family, Format, Forward, Parts
from .gemma import (
    GEMMA4_BUFFERS,
    embed_paligemma,
    finish_gemma3,
    finish_gemma3n,
    finish_gemma4,
    fix_gemma3,
    fix_siglip,
    forward_gemma3,
    forward_gemma3n,
    forward_gemma4,
    forward_paligemma,
    gemma3_masks,
    gemma4_masks,
    kept_coefficients,
    match_reference_mobilenet,
    paligemma_masks,
    scaled_already,
    scaled_embeddings,
    upright_images,
)
from .grid_towers import match_reference_glm_tower
from .mixtures import forgetting, without_metal_kernels
from .processing import process_falcon_ocr, process_plamo2
from .tiled import (
    embed_granite4,
    embed_idefics2,
    embed_internvl,
    embed_jina,
    embed_llava_next,
    embed_llava_onevision,
    match_reference_intern_vit,
    match_reference_moonvit,
    match_reference_moonvit_3d,
    match_reference_qwen3_activations,
)

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

_IMAGE_INDEX = ("image_token_index", "image_token_id", "media_placeholder_token_id")


def _image_ids(model: nn.Module) -> tuple[int, ...]:
    """The ids of the tokens that stand for image features, under any of the names that configurations have."""
    return tuple(
        int(getattr(model.config, name)) for name in _IMAGE_INDEX if getattr(model.config, name, None) is not None
    )


_WITHOUT_TOKEN: Mapping[str, Any] = {"image_mark": "<image>", "image_id": -200}
"""Families whose processors cut the text at "<image>", which is no token, and write an id between the parts."""

_merged = merge_by_gather("_merge_input_ids_with_image_features", is_image=_image_ids)
_prepared = merge_by_gather("_prepare_inputs_for_multimodal", is_image=_image_ids)
_fused_head = forgetting("_fused")
_mixed_weights = forgetting("_attn_res_w_eff", "_mlp_res_w_eff", "_output_res_w_eff")
_routing_scale = forgetting("_wscale")

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
    ),
    "qwen3_5": Family(
        is_proven=True, format=Format(takes_sizes=True, boxes=QWEN3_BOXES), forward=Forward(has_grid_tower=True)
    ),
    "qwen3_5_moe": Family(format=Format(takes_sizes=True, boxes=QWEN3_BOXES), forward=Forward(has_grid_tower=True)),
    "qwen3_omni_moe": Family(
        format=Format(boxes=QWEN3_BOXES),
        forward=Forward(
            packs=True,
            embed_overrides=match_reference_qwen3_activations,
            train_overrides=chain(dense_deepstack, unevaluated),
        ),
    ),
    "cohere_compass": Family(
        forward=Forward(
            packs=True, finish_inputs=finish_deepstack, train_overrides=chain(dense_deepstack, batched_rows)
        )
    ),
    "llava": Family(is_proven=True, forward=Forward(packs=True, embed_overrides=_merged)),
    "pixtral": Family(is_proven=True, forward=Forward(packs=True)),
    "mllama": Family(is_proven=True, forward=Forward(finish_inputs=no_cross_attention)),
    "deepseek_vl_v2": Family(
        is_proven=True,
        format=Format(template=DEEPSEEK_TEMPLATE, boxes=DEEPSEEK_BOXES),
        forward=Forward(
            packs=True, fix_weights=fix_deepseek, fix_inputs=pad_spatial_crop, train_overrides=undifferentiated_indices
        ),
    ),
    **dict.fromkeys(
        (
            "dots_ocr",
            "glm_ocr",
            "idefics3",
            "locateanything",
            "mage_vl",
            "mimo_v2",
            "minicpmo",
            "mistral3",
            "multi_modality",
            "muse_glimmer",
            "smolvlm",
            "step3p7",
            "youtu_vl",
        ),
        Family(forward=Forward(packs=True)),
    ),
    **dict.fromkeys(("aya_vision", "llmjpvl"), Family(forward=Forward(packs=True, embed_overrides=_merged))),
    "plamo2vl": Family(
        format=Format(template=PLAMO2_TEMPLATE, image_mark="<plamo:image>", image_id=-200, process=process_plamo2),
        forward=Forward(embed_overrides=_merged),
    ),
    "internvl_chat": Family(
        # mlx-vlm's template asks for answers after another text than it writes them, and never ends them
        # (internvl_chat/processor.py:17).
        format=Format(has_own_template=True, boxes=INTERNVL_BOXES, **_WITHOUT_TOKEN),
        forward=Forward(packs=True, embed_overrides=chain(_merged, match_reference_intern_vit)),
    ),
    "kimi_k25": Family(forward=Forward(packs=True, embed_overrides=chain(_prepared, match_reference_moonvit_3d))),
    "glm4v": Family(
        is_proven=True,
        forward=Forward(packs=True, embed_overrides=match_reference_glm_tower, train_overrides=sliced_splits),
    ),
    "glm4v_moe": Family(
        forward=Forward(packs=True, embed_overrides=match_reference_glm_tower, train_overrides=sliced_splits)
    ),
    "paddleocr_vl": Family(forward=Forward(packs=True, train_overrides=sliced_splits)),
    "fastvlm": Family(format=Format(**_WITHOUT_TOKEN), forward=Forward(embed=embed_fastvlm)),
    "llava_bunny": Family(format=Format(**_WITHOUT_TOKEN), forward=Forward(embed=embed_llava_bunny)),
    "phi4_siglip": Family(format=Format(**_WITHOUT_TOKEN), forward=Forward(embed=embed_phi4_siglip)),
    "phi4mm": Family(format=Format(**_WITHOUT_TOKEN), forward=Forward(embed=embed_phi4mm)),
    "llava_next": Family(forward=Forward(packs=True, embed=embed_llava_next, config_keys=("image_grid_pinpoints",))),
    "granite_vision": Family(forward=Forward(packs=True, embed=embed_llava_next)),
    "llava_onevision": Family(
        format=Format(template=LLAVA_ONEVISION_TEMPLATE), forward=Forward(packs=True, embed=embed_llava_onevision)
    ),
    "internvl": Family(format=Format(boxes=INTERNVL_BOXES), forward=Forward(packs=True, embed=embed_internvl)),
    "idefics2": Family(format=Format(spaces_after_images=True), forward=Forward(packs=True, embed=embed_idefics2)),
    "kimi_vl": Family(forward=Forward(packs=True, embed_overrides=match_reference_moonvit)),
    "gemma3": Family(
        is_proven=True,
        format=Format(image_mark="<start_of_image>"),
        forward=Forward(
            packs=True,
            fix_weights=fix_gemma3,
            finish_inputs=finish_gemma3,
            forward=forward_gemma3,
            train_overrides=chain(gemma3_masks, scaled_already),
        ),
    ),
    "gemma3n": Family(
        format=Format(image_mark="<image_soft_token>"),
        parts=Parts(checkpointed_part="mlp", no_adapter=("prediction_coefs", "correction_coefs")),
        forward=Forward(
            packs=True,
            finish_inputs=finish_gemma3n,
            forward=forward_gemma3n,
            embed_overrides=chain(scaled_embeddings, upright_images, match_reference_mobilenet),
            train_overrides=kept_coefficients,
        ),
    ),
    "gemma4": Family(
        is_proven=True,
        parts=Parts(tables=GEMMA4_BUFFERS),
        forward=Forward(packs=True, finish_inputs=finish_gemma4, forward=forward_gemma4, train_overrides=gemma4_masks),
    ),
    "gemma4_unified": Family(
        parts=Parts(tables=GEMMA4_BUFFERS),
        forward=Forward(packs=True, finish_inputs=finish_gemma4, forward=forward_gemma4, train_overrides=gemma4_masks),
    ),
    "paligemma": Family(
        is_proven=True,
        format=Format(is_prefix_lm=True, boxes=PALIGEMMA_BOXES, template=PALIGEMMA_TEMPLATE),
        forward=Forward(
            packs=True,
            fix_weights=fix_siglip,
            embed=embed_paligemma,
            forward=forward_paligemma,
            train_overrides=paligemma_masks,
        ),
    ),
    "moondream2": Family(forward=Forward(packs=True, finish_inputs=finish_moondream)),
    "moondream3": Family(forward=Forward(finish_inputs=finish_moondream)),
    "phi3_v": Family(
        parts=Parts(language_model="", beside_language=("model.vision_embed_tokens",)),
        forward=Forward(
            packs=True, finish_inputs=finish_phi3, forward=forward_phi3, train_overrides=rotated_by_own_length
        ),
    ),
    "ernie4_5_moe_vl": Family(forward=Forward(packs=True, finish_inputs=finish_ernie, forward=forward_ernie)),
    "granite4_vision": Family(forward=Forward(packs=True, embed=embed_granite4, forward=forward_granite4)),
    "mistral_large3": Family(forward=Forward(packs=True, forward=forward_ignoring_ids)),
    "got": Family(
        format=Format(template=GOT_TEMPLATE, image_mark=GOT_IMAGE, image_id=-200), forward=Forward(packs=True)
    ),
    "deepseekocr": Family(forward=Forward(packs=True, embed=embed_one_view)),
    "deepseekocr_2": Family(forward=Forward(packs=True, embed=embed_one_view)),
    "unlimited_ocr": Family(forward=Forward(packs=True, label_inputs=label_answers, forward=forward_windowed_answers)),
    "deepseek_v4": Family(
        parts=Parts(selectors=("indexer",), checkpointed_part="ffn"),
        forward=Forward(
            forward=forward_with_fresh_cache,
            train_overrides=undifferentiated_indices,
            eager="its layers read back which rows have images",
        ),
    ),
    "qwen4_exp": Family(
        parts=Parts(selectors=("indexer",)),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, without_metal_kernels),
            eager="it reads back which rows of its n-gram tables are needed",
        ),
    ),
    "glm5_next": Family(
        parts=Parts(selectors=("indexer",)),
        forward=Forward(
            train_overrides=chain(undifferentiated_indices, chosen_without_gradient, without_metal_kernels)
        ),
    ),
    "hunyuan_vl": Family(forward=Forward(packs=True, finish_inputs=finish_hunyuan, forward=forward_hunyuan)),
    "molmo": Family(parts=Parts(embedding_parts=("wte",)), forward=Forward(packs=True)),
    "molmo2": Family(
        format=Format(image_mark="<|image|>", image_id=-200),
        parts=Parts(embedding_parts=("wte",)),
        forward=Forward(packs=True, finish_inputs=finish_molmo2, forward=forward_molmo2),
    ),
    "molmo_point": Family(
        format=Format(image_mark="<|image|>", image_id=-200, opens_with_eos=True),
        parts=Parts(language_model="lm", embedding_parts=("wte",), no_adapter=("patch_embedding",)),
        forward=Forward(
            packs=True,
            finish_inputs=finish_molmo_point,
            forward=forward_molmo2,
            embed_overrides=_fused_head,
            train_overrides=_fused_head,
        ),
    ),
    "falcon_ocr": Family(
        format=Format(template=FALCON_TEMPLATE, image_mark="<|image|>", image_id=-200, process=process_falcon_ocr),
        parts=Parts(
            beside_language=("language_model.model.img_projector",),
            no_adapter=("img_projector",),
            tables=("cos_1d", "sin_1d", "freqs_cis_golden"),
        ),
        forward=Forward(packs=True, embed=embed_falcon_ocr, forward=forward_falcon_ocr),
    ),
    "jina_vlm": Family(
        parts=Parts(embedding_parts=("language_model.embedding",)), forward=Forward(packs=True, embed=embed_jina)
    ),
    "kimi_k3": Family(
        parts=Parts(
            checkpointed_part="mlp",
            no_adapter=("self_attention_res_proj", "mlp_res_proj", "output_attn_res_proj"),
            without_experts="mlx-vlm attaches theirs only with those of all layers, and reads weights of some directly",
        ),
        forward=Forward(embed_overrides=_mixed_weights, train_overrides=_mixed_weights),
    ),
    "inkling": Family(
        parts=Parts(embedding_parts=("embed_norm",)),
        forward=Forward(embed_overrides=_routing_scale, train_overrides=chain(_routing_scale, without_metal_kernels)),
    ),
    "minimax_m3_vl": Family(
        parts=Parts(selectors=("index_q_proj", "index_k_proj", "index_q_norm", "index_k_norm")),
        forward=Forward(train_overrides=chain(undifferentiated_indices, without_metal_kernels)),
    ),
    "florence2": Family(
        format=Format(is_encoder_decoder=True, boxes=FLORENCE_BOXES),
        forward=Forward(fix_weights=fix_table, embed=embed_prompt, forward=forward_encoder_decoder),
    ),
    "nemotron_parse": Family(
        format=Format(is_encoder_decoder=True, is_prompted_decoder=True),
        forward=Forward(fix_weights=fix_table, embed=embed_states, forward=forward_decoder),
    ),
    "deepseek_v41": Family(refused="mlx-vlm 0.7.10's model lets earlier tokens see later ones"),
    "muse_spark": Family(refused="its layers are Metal kernels without gradients"),
    "falcon_perception": Family(
        refused="its answers are places, sizes and masks of heads beside the language model, which text does not teach"
    ),
}


def describe_family(model_type: str) -> Family:
    """Look a family up; an unlisted one is run generically, after the probes.

    On a Mac all are embedded and trained without mlx-vlm's Metal kernels.
    """
    family = FAMILIES.get(model_type, Family())
    if not mx.metal.is_available():
        return family
    forward = attrs.evolve(
        family.forward,
        embed_overrides=chain(family.forward.embed_overrides, without_metal_kernels),
        train_overrides=chain(family.forward.train_overrides, without_metal_kernels),
    )
    return attrs.evolve(family, forward=forward)
