"""What differs between model families, as data, and what mlx-vlm gets wrong, mended in one place each.

A family that is not listed is run as `Family()` describes: rows embedded one by one, causal attention, no
corrections; before it is trained, `vlora.models.backbone.startup_checks` checks on real rows that this is right for it.
Corrections act on one model's instance and only while a step runs. Versions and lines: mlx-vlm 0.7.10.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from PIL import Image

from ...data.format.boxes import (
    DEEPSEEK_BOXES,
    FLORENCE_BOXES,
    INTERNVL_BOXES,
    PALIGEMMA_BOXES,
    QWEN2_BOXES,
    QWEN3_BOXES,
    QWEN25_BOXES,
    BoxStyle,
)
from ...types import Example
from ..encode.template.chat_template import (
    FALCON_TEMPLATE,
    GOT_IMAGE,
    GOT_TEMPLATE,
    LLAVA_ONEVISION_TEMPLATE,
    PALIGEMMA_TEMPLATE,
    PLAMO2_TEMPLATE,
)
from ..forward.attention_masks import (
    complete_molmo2,
    complete_molmo_point,
    embed_falcon_ocr,
    mark_answers,
    run_falcon_ocr,
    run_molmo2,
    run_windowed_answers,
)
from ..forward.calls import (
    call_language_model,
    complete_deepstack,
    complete_ernie,
    complete_hunyuan,
    complete_moondream,
    complete_phi3,
    embed_alone,
    embed_one_view,
    keep_fields,
    mark_nothing,
    rotated_by_own_length,
    run_ernie,
    run_granite4,
    run_hunyuan,
    run_ignoring_ids,
    run_phi3,
    run_with_fresh_cache,
)
from ..forward.lm_inputs import LMInputs
from ..forward.overrides import (
    Correction,
    batched_rows,
    chosen_without_gradient,
    dense_deepstack,
    mend_deepseek,
    merge_by_gather,
    no_cross_attention,
    pad_spatial_crop,
    sliced_splits,
    together,
    undifferentiated_indices,
    unevaluated,
)
from .encoder_decoders import embed_prompt, embed_states, mend_table, run_decoder, run_encoder_decoder
from .expanding import embed_fastvlm, embed_llava_bunny, embed_phi4_siglip, embed_phi4mm
from .gemma import (
    GEMMA4_BUFFERS,
    complete_gemma3,
    complete_gemma3n,
    complete_gemma4,
    embed_paligemma,
    gemma3_masks,
    gemma4_masks,
    kept_coefficients,
    mend_gemma3,
    mend_siglip,
    paligemma_masks,
    published_mobilenet,
    run_gemma3,
    run_gemma3n,
    run_gemma4,
    run_paligemma,
    scaled_already,
    scaled_embeddings,
    upright_images,
)
from .grid_towers import published_glm_tower
from .mixtures import forgetting, without_metal_kernels
from .processing import process_falcon_ocr, process_plamo2
from .tiled import (
    embed_granite4,
    embed_idefics2,
    embed_internvl,
    embed_jina,
    embed_llava_next,
    embed_llava_onevision,
    published_intern_vit,
    published_moonvit,
    published_moonvit_3d,
    published_qwen3_activations,
)

Inputs = dict[str, Any]


def leave_as_loaded(_: nn.Module) -> None:
    """Correct nothing."""


@attrs.frozen(kw_only=True)
class Family:
    """How a family is embedded, encoded and run.

    Attributes:
        refused: Why the family is not trained; None if it is.
        is_proven: Tests show its losses, gradients, padding and causality; no probe at start-up.
        packs: Several rows of data can stand in one row of a batch: its attention keeps them apart, nothing else mixes
            tokens, and positions count from anywhere or are given.
        has_grid_tower: The tower takes patches and a grid (Qwen-VL), so that images of one size go through it
            together and compiled.
        takes_sizes: Its published loader takes the size of an image from the row (qwen-vl-utils).
        boxes: How it has learned to write boxes; None if that is not known.
        is_prefix_lm: The prompt sees itself whole, and the processor takes it and the answer apart.
        is_encoder_decoder: An encoder reads, a decoder writes; the tokens are the decoder's.
        is_prompted_decoder: The prompt is the first of those tokens; else the encoder reads it.
        template: The chat template where mlx-vlm's is wrong; None for the model's own.
        has_own_template: The tokenizer's chat template is the published one, if there is one; the processor's is not.
        language_model: The language model's name where the model is its own; None where `model.language_model` is it.
        beside_language: Names of parts that lie within the language model but are not of it: towers, projectors.
        embedding_parts: Last parts of the names of language model layers that embedding uses besides `nn.Embedding`.
        no_adapter: Last parts of the names of layers whose weights the model reads directly; no adapters.
        selectors: Parts of the names of layers that only choose what is attended to; no gradient, and no adapters.
        tables: Names of arrays among a model's parameters that are computed and not learned, the published
            model's buffers; no training changes them.
        without_experts: Why layers of experts get no adapters; None if they do.
        checkpointed_part: The part of a layer that is recomputed under gradient checkpointing, where whole layers
            cannot be; None for whole layers.
        process: Runs the processor on a written conversation, where it would write a prompt of its own around it:
            (processor, text, images) to its outputs.
        opens_with_eos: A conversation begins with the end-of-sequence token where the tokenizer has no BOS.
        eager: Why the language step cannot be compiled; None if it can.
        restored: Keys of config.json that mlx-vlm's configuration drops and embedding needs.
        spaces_after_images: The processor puts a space between an image and a text that touches it.
        image_mark: What the chat template writes for an image, where it is not the token that the model replaces.
        image_id: The id that stands for an image, where neither config.json nor the processor says it; negative if it
            is not of the vocabulary.
        mend: Corrects a model once it is loaded, for good.
        mend_inputs: Corrects a row's processor output before the model sees it.
        embed: Embeds one row: (model, i32[1, T], inputs) to the language model's fields.
        mark: Fields that the row itself decides, not the model: (row) to fields.
        complete: Adds what the language model needs besides, and takes away what it must not see.
        run: Runs the language model on a batch: (model, i32[B, T], fields) to f[B, T, V]; safe to trace.
        while_embedding: Corrections of the model while rows are embedded.
        train_overrides: Corrections of the model while the language step is traced or run.
    """

    refused: str | None = None
    is_proven: bool = False
    packs: bool = False
    has_grid_tower: bool = False
    takes_sizes: bool = False
    boxes: BoxStyle | None = None
    is_prefix_lm: bool = False
    is_encoder_decoder: bool = False
    is_prompted_decoder: bool = False
    template: str | None = None
    has_own_template: bool = False
    language_model: str | None = None
    beside_language: tuple[str, ...] = ()
    embedding_parts: tuple[str, ...] = ()
    no_adapter: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    without_experts: str | None = None
    checkpointed_part: str | None = None
    process: Callable[[Any, str, list[Image.Image]], Mapping[str, Any]] | None = None
    opens_with_eos: bool = False
    eager: str | None = None
    restored: tuple[str, ...] = ()
    spaces_after_images: bool = False
    image_mark: str | None = None
    image_id: int | None = None
    mend: Callable[[nn.Module], None] = leave_as_loaded
    mend_inputs: Callable[[Inputs], Inputs] = dict
    embed: Callable[[nn.Module, mx.array, Inputs], LMInputs] = embed_alone
    mark: Callable[[Example], LMInputs] = mark_nothing
    complete: Callable[[nn.Module, mx.array, Inputs, LMInputs], LMInputs] = keep_fields
    run: Callable[[nn.Module, mx.array, LMInputs], mx.array] = call_language_model
    while_embedding: Correction = contextlib.nullcontext
    train_overrides: Correction = contextlib.nullcontext


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
    "qwen2_vl": Family(is_proven=True, packs=True, has_grid_tower=True, takes_sizes=True, boxes=QWEN2_BOXES),
    "qwen2_5_vl": Family(is_proven=True, packs=True, has_grid_tower=True, takes_sizes=True, boxes=QWEN25_BOXES),
    "qwen3_vl": Family(
        is_proven=True,
        packs=True,
        has_grid_tower=True,
        takes_sizes=True,
        boxes=QWEN3_BOXES,
        train_overrides=dense_deepstack,
    ),
    "qwen3_vl_moe": Family(
        is_proven=True,
        packs=True,
        has_grid_tower=True,
        takes_sizes=True,
        boxes=QWEN3_BOXES,
        while_embedding=published_qwen3_activations,
        train_overrides=dense_deepstack,
    ),
    "qwen3_5": Family(is_proven=True, has_grid_tower=True, takes_sizes=True, boxes=QWEN3_BOXES),
    "qwen3_5_moe": Family(has_grid_tower=True, takes_sizes=True, boxes=QWEN3_BOXES),
    "qwen3_omni_moe": Family(
        packs=True,
        boxes=QWEN3_BOXES,
        while_embedding=published_qwen3_activations,
        train_overrides=together(dense_deepstack, unevaluated),
    ),
    "cohere_compass": Family(
        packs=True, complete=complete_deepstack, train_overrides=together(dense_deepstack, batched_rows)
    ),
    "llava": Family(is_proven=True, packs=True, while_embedding=_merged),
    "pixtral": Family(is_proven=True, packs=True),
    "mllama": Family(is_proven=True, complete=no_cross_attention),
    "deepseek_vl_v2": Family(
        is_proven=True,
        packs=True,
        template=DEEPSEEK_TEMPLATE,
        boxes=DEEPSEEK_BOXES,
        mend=mend_deepseek,
        mend_inputs=pad_spatial_crop,
        train_overrides=undifferentiated_indices,
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
        Family(packs=True),
    ),
    **dict.fromkeys(("aya_vision", "llmjpvl"), Family(packs=True, while_embedding=_merged)),
    "plamo2vl": Family(
        template=PLAMO2_TEMPLATE,
        image_mark="<plamo:image>",
        image_id=-200,
        process=process_plamo2,
        while_embedding=_merged,
    ),
    "internvl_chat": Family(
        packs=True,
        # mlx-vlm's template asks for answers after another text than it writes them, and never ends them
        # (internvl_chat/processor.py:17).
        has_own_template=True,
        boxes=INTERNVL_BOXES,
        while_embedding=together(_merged, published_intern_vit),
        **_WITHOUT_TOKEN,
    ),
    "kimi_k25": Family(packs=True, while_embedding=together(_prepared, published_moonvit_3d)),
    "glm4v": Family(is_proven=True, packs=True, while_embedding=published_glm_tower, train_overrides=sliced_splits),
    "glm4v_moe": Family(packs=True, while_embedding=published_glm_tower, train_overrides=sliced_splits),
    "paddleocr_vl": Family(packs=True, train_overrides=sliced_splits),
    "fastvlm": Family(embed=embed_fastvlm, **_WITHOUT_TOKEN),
    "llava_bunny": Family(embed=embed_llava_bunny, **_WITHOUT_TOKEN),
    "phi4_siglip": Family(embed=embed_phi4_siglip, **_WITHOUT_TOKEN),
    "phi4mm": Family(embed=embed_phi4mm, **_WITHOUT_TOKEN),
    "llava_next": Family(packs=True, embed=embed_llava_next, restored=("image_grid_pinpoints",)),
    "granite_vision": Family(packs=True, embed=embed_llava_next),
    "llava_onevision": Family(packs=True, embed=embed_llava_onevision, template=LLAVA_ONEVISION_TEMPLATE),
    "internvl": Family(packs=True, embed=embed_internvl, boxes=INTERNVL_BOXES),
    "idefics2": Family(packs=True, embed=embed_idefics2, spaces_after_images=True),
    "kimi_vl": Family(packs=True, while_embedding=published_moonvit),
    "gemma3": Family(
        is_proven=True,
        packs=True,
        image_mark="<start_of_image>",
        mend=mend_gemma3,
        complete=complete_gemma3,
        run=run_gemma3,
        train_overrides=together(gemma3_masks, scaled_already),
    ),
    "gemma3n": Family(
        packs=True,
        image_mark="<image_soft_token>",
        complete=complete_gemma3n,
        run=run_gemma3n,
        while_embedding=together(scaled_embeddings, upright_images, published_mobilenet),
        train_overrides=kept_coefficients,
        checkpointed_part="mlp",
        no_adapter=("prediction_coefs", "correction_coefs"),
    ),
    "gemma4": Family(
        is_proven=True,
        packs=True,
        tables=GEMMA4_BUFFERS,
        complete=complete_gemma4,
        run=run_gemma4,
        train_overrides=gemma4_masks,
    ),
    "gemma4_unified": Family(
        packs=True,
        tables=GEMMA4_BUFFERS,
        complete=complete_gemma4,
        run=run_gemma4,
        train_overrides=gemma4_masks,
    ),
    "paligemma": Family(
        is_proven=True,
        packs=True,
        is_prefix_lm=True,
        boxes=PALIGEMMA_BOXES,
        template=PALIGEMMA_TEMPLATE,
        mend=mend_siglip,
        embed=embed_paligemma,
        run=run_paligemma,
        train_overrides=paligemma_masks,
    ),
    "moondream2": Family(packs=True, complete=complete_moondream),
    "moondream3": Family(complete=complete_moondream),
    "phi3_v": Family(
        packs=True,
        language_model="",
        beside_language=("model.vision_embed_tokens",),
        complete=complete_phi3,
        run=run_phi3,
        train_overrides=rotated_by_own_length,
    ),
    "ernie4_5_moe_vl": Family(packs=True, complete=complete_ernie, run=run_ernie),
    "granite4_vision": Family(packs=True, embed=embed_granite4, run=run_granite4),
    "mistral_large3": Family(packs=True, run=run_ignoring_ids),
    "got": Family(packs=True, template=GOT_TEMPLATE, image_mark=GOT_IMAGE, image_id=-200),
    "deepseekocr": Family(packs=True, embed=embed_one_view),
    "deepseekocr_2": Family(packs=True, embed=embed_one_view),
    "unlimited_ocr": Family(packs=True, mark=mark_answers, run=run_windowed_answers),
    "deepseek_v4": Family(
        run=run_with_fresh_cache,
        train_overrides=undifferentiated_indices,
        selectors=("indexer",),
        checkpointed_part="ffn",
        eager="its layers read back which rows have images",
    ),
    "qwen4_exp": Family(
        train_overrides=together(undifferentiated_indices, without_metal_kernels),
        selectors=("indexer",),
        eager="it reads back which rows of its n-gram tables are needed",
    ),
    "glm5_next": Family(
        train_overrides=together(undifferentiated_indices, chosen_without_gradient, without_metal_kernels),
        selectors=("indexer",),
    ),
    "hunyuan_vl": Family(packs=True, complete=complete_hunyuan, run=run_hunyuan),
    "molmo": Family(packs=True, embedding_parts=("wte",)),
    "molmo2": Family(
        packs=True,
        image_mark="<|image|>",
        image_id=-200,
        embedding_parts=("wte",),
        complete=complete_molmo2,
        run=run_molmo2,
    ),
    "molmo_point": Family(
        packs=True,
        image_mark="<|image|>",
        image_id=-200,
        opens_with_eos=True,
        language_model="lm",
        embedding_parts=("wte",),
        no_adapter=("patch_embedding",),
        complete=complete_molmo_point,
        run=run_molmo2,
        while_embedding=_fused_head,
        train_overrides=_fused_head,
    ),
    "falcon_ocr": Family(
        packs=True,
        template=FALCON_TEMPLATE,
        image_mark="<|image|>",
        image_id=-200,
        process=process_falcon_ocr,
        beside_language=("language_model.model.img_projector",),
        no_adapter=("img_projector",),
        tables=("cos_1d", "sin_1d", "freqs_cis_golden"),
        embed=embed_falcon_ocr,
        run=run_falcon_ocr,
    ),
    "jina_vlm": Family(packs=True, embed=embed_jina, embedding_parts=("language_model.embedding",)),
    "kimi_k3": Family(
        checkpointed_part="mlp",
        no_adapter=("self_attention_res_proj", "mlp_res_proj", "output_attn_res_proj"),
        without_experts="mlx-vlm attaches theirs only with those of all layers, and reads weights of some directly",
        while_embedding=_mixed_weights,
        train_overrides=_mixed_weights,
    ),
    "inkling": Family(
        embedding_parts=("embed_norm",),
        while_embedding=_routing_scale,
        train_overrides=together(_routing_scale, without_metal_kernels),
    ),
    "minimax_m3_vl": Family(
        selectors=("index_q_proj", "index_k_proj", "index_q_norm", "index_k_norm"),
        train_overrides=together(undifferentiated_indices, without_metal_kernels),
    ),
    "florence2": Family(
        is_encoder_decoder=True, boxes=FLORENCE_BOXES, mend=mend_table, embed=embed_prompt, run=run_encoder_decoder
    ),
    "nemotron_parse": Family(
        is_encoder_decoder=True, is_prompted_decoder=True, mend=mend_table, embed=embed_states, run=run_decoder
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
    return attrs.evolve(
        family,
        while_embedding=together(family.while_embedding, without_metal_kernels),
        train_overrides=together(family.train_overrides, without_metal_kernels),
    )
