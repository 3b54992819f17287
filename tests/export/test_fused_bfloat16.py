"""A fused folder in bfloat16 has the logits that mlx-vlm computes of it, and is as near the truth as its adapter is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.models.cache import make_prompt_cache

from tests.arrays import load_arrays
from tests.export.adapters import open_backbone, write_base
from tests.export.test_fused_families import fuse_random, logits
from tests.families import FAMILIES, examples
from vlora import Example, collate, models
from vlora.models.backbone.embed import to_device
from vlora.models.families.gemma3n import SharedKeys
from vlora.models.load import loading

Array = np.ndarray[Any, np.dtype[Any]]

TOLERANCE = 1e-3
"""Of the largest logit."""

ROUNDED = {"falcon_ocr": 2**-8}
"""Families whose logits mlx-vlm rounds once more, and by how much at most.

Falcon-OCR's forward is in float32 in both programs: the weights of its norms are no parameters, and stay in float32
(falcon_ocr/language.py:170). vlora's logits of a folder in bfloat16 are therefore those of the same numbers in float32.
mlx-vlm casts them to the type of the table of embeddings (:428), and is the farther one from float32. A folder whose
table is in float32 has vlora's logits in mlx-vlm. `fuse` writes none: an array keeps the type that it has in the base.
"""

PADDED = ("glm5_next",)
"""Families that are compared on the row as vlora pads it, on which both programs have the same logits to the bit.

The hyper-connections of GLM-5 multiply in float32 (deepseek_v4/hyper_connection.py:394), and on a CPU such products
differ by 1e-6 with the number of tokens. One number of a layer's output lies so close to the middle between two numbers
of bfloat16 that it is rounded to the other one (:426), and later layers amplify that to 1e-2 of the largest logit. What
is attended, and which experts are chosen, stays the same. mlx-vlm's own logits of a row differ as much with and without
padding, and both are as far from float32.
"""

WITH_IMAGES = ("mllama", "hunyuan_vl", "florence2", "nemotron_parse")
"""Families of which a row with an image is compared: mlx-vlm computes text alone otherwise, or not at all."""

SHORT = ("unlimited_ocr",)
"""Families of which the words of a row are compared whose answer fits into the window in which it sees itself."""

OTHERWISE = {"minimax_m3_vl": "all heads attend to the blocks that one of the index's chooses (language.py:1680)"}
"""Families of which mlx-vlm computes all rows otherwise than they were published."""

DRAWS, MORE_DRAWS = 2, {"unlimited_ocr": 4}
"""Adapters whose rows are compared; more where a chosen expert changes in most of the rows."""

FARTHER = 1.25

WINDOW = 4
"""No wider than the tiny PaliGemma 2's, in tokens."""


@pytest.fixture(autouse=True)
def _bfloat16_experts() -> Iterator[None]:
    """MLX multiplies chosen experts in float32 only on a CPU; elsewhere it adds up in float32 and rounds, as here."""
    gather = mx.gather_mm

    def rounding(a: mx.array, b: mx.array, *others: Any, **options: Any) -> mx.array:
        dtype = a.dtype if a.dtype == b.dtype else mx.float32
        product: mx.array = gather(a.astype(mx.float32), b.astype(mx.float32), *others, **options)
        return product.astype(dtype)

    with mock.patch.object(mx, "gather_mm", rounding):
        yield


def compute_own(name: str, folder: Path, row: Example, *, is_padded: bool = False) -> Array:
    """Compute a row's logits with mlx-vlm's forward of a folder: f[1, T, V]."""
    # The model keeps what it has read of a row.
    with loading.generating(open_backbone(name, folder)) as module:
        inputs = {key: to_device(value) for key, value in row.inputs.items()}
        pixels, tokens = inputs.pop("pixel_values", None), mx.array(row.tokens)[None]
        tokens = mx.array(collate([row]).tokens) if is_padded else tokens
        language = module.language_model
        if name in ("florence2", "nemotron_parse"):
            prompt = inputs.get("prompt_ids")
            embeds = module.get_input_embeddings(prompt, pixels).inputs_embeds
            output = language(None, inputs_embeds=embeds, decoder_input_ids=tokens)
        elif name in ("paligemma", "paligemma2"):
            # Text alone is all prompt there, in which every token sees all others.
            causal = mx.tril(mx.ones((1, 1, tokens.size, tokens.size), dtype=mx.bool_))
            output = language(tokens, mask=causal)
        elif name == "gemma3n":
            # With ids, which are scaled; see upstream_differs.
            caches = [SharedKeys() for _ in range(language.model.first_kv_shared_layer_idx)]
            output = language(tokens, cache=caches)
        else:
            output = module(tokens, pixels, mask=None, cache=make_prompt_cache(language), **inputs)
        found = np.array(output.logits.astype(mx.float32))
        return found[:, : len(row.tokens)] if is_padded else found


def choose_row(name: str, rows: list[Example]) -> Example:
    """Take the row that is compared with mlx-vlm: one of text, made of another one's words if there is none."""
    if name in WITH_IMAGES:
        return rows[0]
    text = rows[0] if name in SHORT else rows[-1]
    if not text.inputs:
        return text
    is_word = ~text.placeholders
    if name == "paligemma2":
        # Within the window of its sliding layers; mlx-vlm gives all layers one mask.
        is_word &= np.cumsum(is_word) <= WINDOW
    return attrs.evolve(
        text,
        tokens=text.tokens[is_word],
        supervised=text.supervised[is_word],
        placeholders=text.placeholders[is_word],
        inputs={},
    )


def distances(found: list[Array], true: list[Array]) -> Array:
    """Measure how far the logits of each row are from what they would be without rounding, as a part of their size."""
    pairs = zip(found, true, strict=True)
    return np.array([np.linalg.norm(one - other) / np.linalg.norm(other) for one, other in pairs])


def each(backbone: models.MlxVlmBackbone, rows: list[Example], params: Any = None) -> list[Array]:
    """Compute the logits of rows, each alone."""
    return [logits(backbone, [row], params) for row in rows]


families = pytest.mark.parametrize(
    "name", [name if name == "qwen3_vl" else pytest.param(name, marks=pytest.mark.families) for name in FAMILIES]
)


@families
def test_a_fused_folder_in_bfloat16_has_the_logits_that_mlx_vlm_computes(name: str, tmp_path: Path) -> None:
    """Both run the rounded weights in the same order, and so to the bit."""
    if name in OTHERWISE:
        pytest.skip(OTHERWISE[name])
    backbone, row = write_base(name, tmp_path / "base", mx.bfloat16), choose_row(name, examples(FAMILIES[name]))
    folder, _ = fuse_random(name, backbone, tmp_path)
    own = compute_own(name, folder, row, is_padded=name in PADDED)
    found = logits(open_backbone(name, folder), [row])
    length = min(own.shape[1], found.shape[1])
    difference = np.abs(found[:, :length] - own[:, :length]).max()
    assert difference <= ROUNDED.get(name, TOLERANCE) * np.abs(own).max()


def test_only_the_last_rounding_sets_falcon_ocr_apart(tmp_path: Path) -> None:
    """With the same table in float32, mlx-vlm's logits are vlora's, which are those of the same numbers in float32."""
    name = "falcon_ocr"
    backbone, row = write_base(name, tmp_path / "base", mx.bfloat16), choose_row(name, examples(FAMILIES[name]))
    folder, _ = fuse_random(name, backbone, tmp_path)
    opened = open_backbone(name, folder)
    found = logits(opened, [row])
    opened.module.set_dtype(mx.float32)
    assert np.array_equal(found, logits(opened, [row]))
    file = folder / "model.safetensors"
    arrays = load_arrays(file)
    table = "language_model.model.embed_tokens.weight"
    mx.save_safetensors(str(file), {**arrays, table: arrays[table].astype(mx.float32)}, {"format": "mlx"})
    own = compute_own(name, folder, row)
    assert np.abs(found[:, : own.shape[1]] - own).max() <= 1e-6 * np.abs(own).max()


def test_padding_sets_glm_5_apart_from_itself(tmp_path: Path) -> None:
    """mlx-vlm's logits of a row are others beside padding, by as much as vlora's are, which always has it."""
    name = "glm5_next"
    backbone, row = write_base(name, tmp_path / "base", mx.bfloat16), choose_row(name, examples(FAMILIES[name]))
    folder, _ = fuse_random(name, backbone, tmp_path)
    alone, padded = (compute_own(name, folder, row, is_padded=is_padded) for is_padded in (False, True))
    assert np.array_equal(padded, logits(open_backbone(name, folder), [row])[:, : padded.shape[1]])
    assert np.abs(padded - alone).max() < 2e-2 * np.abs(alone).max()


@families
def test_a_fused_folder_in_bfloat16_is_as_near_the_truth_as_its_adapter(name: str, tmp_path: Path) -> None:
    """The truth is the same adapter beside the same base, all in float32.

    What the weights W + BA lose when they are rounded comes to what a forward in bfloat16 loses anyhow, and is the rest
    of the distance where a model computes in float32. Neither has to do with the other: their squares add up. Where
    rounding changes which expert is chosen, a row may come out either way, so that the median is compared.
    """
    rows = examples(FAMILIES[name])
    ratios = []
    for draw in range(MORE_DRAWS.get(name, DRAWS)):
        folder = tmp_path / str(draw)
        backbone = write_base(name, folder / "base", mx.bfloat16)
        path, params = fuse_random(name, backbone, folder, seed=draw)
        opened = open_backbone(name, path)
        found, beside = each(opened, rows), each(backbone, rows, params)
        for one in (backbone, opened):
            one.module.set_dtype(mx.float32)
        true = each(backbone, rows, {key: value.astype(mx.float32) for key, value in params.items()})
        rounded = each(opened, rows)
        ratios.append(distances(found, true) / np.hypot(distances(beside, true), distances(rounded, true)))
    assert 0 < np.median(ratios) <= FARTHER
