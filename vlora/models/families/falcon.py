"""Falcon's families. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from PIL import Image

from ..forward.attention_masks import number_runs, row_mask
from ..forward.lm_inputs import SEGMENTS, LMInputs, PadSpec
from ..forward.merging import scatter_features
from .family import Family, Format, Forward, Parts
from .pieces import IMAGES_THEN_TEXT, ONE_QUESTION

FALCON_TEMPLATE = ONE_QUESTION.replace("QUESTION", IMAGES_THEN_TEXT + "{{ '\n<|OCR_PLAIN|>' }}")
"""What Falcon-OCR's processor writes around an instruction (falcon_ocr/processing_falcon_ocr.py:35)."""


def process_falcon_ocr(processor: Any, text: str, images: list[Image.Image]) -> Mapping[str, Any]:
    """Run Falcon-OCR's processor without its prompt, which is one of a few (processing_falcon_ocr.py:31)."""
    from mlx_vlm.models.falcon_ocr.processing_falcon_ocr import preprocess_image

    read = [preprocess_image(image.convert("RGB"), processor.spatial_patch_size) for image in images]
    grids = [[height, width] for _, height, width in read]
    plain = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return {
        "input_ids": processor._expand_image_tokens(plain, grids),  # noqa: SLF001 - the family's own
        "pixel_values": np.stack([pixels for pixels, _, _ in read]),
        "image_grid_hw": np.array(grids, dtype=np.int32),
    }


def embed_falcon_ocr(model: nn.Module, tokens: mx.array, inputs: dict[str, Any]) -> LMInputs:
    """Embed a row of Falcon-OCR, with the places of its patches and its images as blocks.

    mlx-vlm places the first image's patches only (falcon_ocr/language.py:467), and without an image has no mask at all
    outside of generation (:323).

    Raises:
        ValueError: The numbers of image tokens and of patches differ.
    """
    embeds = model.language_model.model.embed_tokens(tokens)
    pixels = inputs.get("pixel_values")
    places, positions, _, _ = model.language_model.get_rope_index(tokens[0], inputs.get("image_grid_hw"))
    ids = np.array(tokens[0])
    config = model.config
    is_image = np.cumsum(ids == config.image_cls_token_id) > np.cumsum(ids == config.img_end_id)
    if pixels is not None:
        patches = model._patchify_and_project(pixels)  # noqa: SLF001 - the family's own
        embeds = scatter_features(embeds, patches, ids[None] == config.img_id)
    return {"inputs_embeds": embeds, "position_ids": places[None], "pos_hw": positions, "blocks": number_runs(is_image)}


def forward_falcon_ocr(model: nn.Module, tokens: mx.array, fields: LMInputs) -> mx.array:
    """Run Falcon-OCR's language model with bidirectional attention within an image.

    mlx-vlm casts logits to the type in which embeddings are kept, integers where they are quantized
    (falcon_ocr/language.py:428).
    """
    language = model.language_model
    hidden = language.model(
        tokens,
        inputs_embeds=fields["inputs_embeds"],
        mask=row_mask(fields.get("cache"), fields["blocks"], segments=fields.get(SEGMENTS)),
        cache=fields.get("cache"),
        position_ids=fields["position_ids"],
        pos_hw=fields["pos_hw"],
    )
    logits: mx.array = (
        language.model.embed_tokens.as_linear(hidden) if language.args.tie_word_embeddings else language.lm_head(hidden)
    )
    return logits


FAMILIES: Mapping[str, Family] = {
    "falcon_ocr": Family(
        format=Format(template=FALCON_TEMPLATE, image_mark="<|image|>", image_id=-200, process=process_falcon_ocr),
        parts=Parts(
            beside_language=("language_model.model.img_projector",),
            no_adapter=("img_projector",),
            tables=("cos_1d", "sin_1d", "freqs_cis_golden"),
        ),
        forward=Forward(
            packs=True, embed=embed_falcon_ocr, own_inputs={"pos_hw": PadSpec()}, forward=forward_falcon_ocr
        ),
        upstream_differs="only the first image's patches are placed (falcon_ocr/language.py:467)",
    ),
    "falcon_perception": Family(
        refused="its answers are places, sizes and masks of heads beside the language model, which text does not teach"
    ),
}
