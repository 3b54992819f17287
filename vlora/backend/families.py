"""What differs between model families, as data, and what mlx-vlm gets wrong, mended in one place each.

A family that is not listed is run as `Family()` describes: rows embedded one by one, causal attention, no
corrections; before it is trained, `vlora.backend.probes` checks on real rows that this is right for it.
Corrections act on one model's instance and only while a step runs. Versions and lines: mlx-vlm 0.7.10.
"""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from .corrections import (
    dense_deepstack,
    merge_by_gather,
    no_cross_attention,
    pad_spatial_crop,
    undifferentiated_indices,
)
from .embedding import call_language_model, embed_alone, keep_fields
from .fields import Fields

Inputs = dict[str, Any]
Correction = Callable[[nn.Module], AbstractContextManager[Any]]


@attrs.frozen(kw_only=True)
class Family:
    """How a family is embedded, encoded and run.

    Attributes:
        refused: Why the family is not trained; None if it is.
        is_proven: Tests show its losses, gradients, padding and causality; no probe at start-up.
        has_grid_tower: The tower takes patches and a grid (Qwen-VL), so that images of one size go through it
            together and compiled.
        is_encoder_decoder: The prompt is read by an encoder, the tokens are the decoder's.
        template: The chat template where mlx-vlm's is wrong; None for the model's own.
        language_model: The language model's name where the model is its own; None where `model.language_model` is it.
        beside_language: Names of parts that lie within the language model but are not of it: towers, projectors.
        embedding_parts: Last parts of the names of language model layers that embedding uses besides `nn.Embedding`.
        untouchable: Last parts of the names of layers whose weights the model reads directly; no adapters.
        checkpointed_part: The part of a layer that is recomputed under gradient checkpointing, where whole layers
            cannot be; None for whole layers.
        eager: Why the language step cannot be compiled; None if it can.
        mend_inputs: Corrects a row's processor output before the model sees it.
        embed: Embeds one row: (model, i32[1, T], inputs) to the language model's fields.
        complete: Adds what the language model needs besides, and takes away what it must not see.
        run: Runs the language model on a batch: (model, i32[B, T], fields) to f[B, T, V]; safe to trace.
        while_embedding: Corrections of the model while rows are embedded.
        while_training: Corrections of the model while the language step is traced or run.
    """

    refused: str | None = None
    is_proven: bool = False
    has_grid_tower: bool = False
    is_encoder_decoder: bool = False
    template: str | None = None
    language_model: str | None = None
    beside_language: tuple[str, ...] = ()
    embedding_parts: tuple[str, ...] = ()
    untouchable: tuple[str, ...] = ()
    checkpointed_part: str | None = None
    eager: str | None = None
    mend_inputs: Callable[[Inputs], Inputs] = dict
    embed: Callable[[nn.Module, mx.array, Inputs], Fields] = embed_alone
    complete: Callable[[nn.Module, mx.array, Inputs, Fields], Fields] = keep_fields
    run: Callable[[nn.Module, mx.array, Fields], mx.array] = call_language_model
    while_embedding: Correction = contextlib.nullcontext
    while_training: Correction = contextlib.nullcontext


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

_EXPANDS = "its image placeholders expand inside the model, so that targets and logits do not line up"
_OWN_MASK = "its attention is not causal inside images, which needs a mask that vlora does not build yet"

FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": Family(is_proven=True, has_grid_tower=True),
    "qwen2_5_vl": Family(is_proven=True, has_grid_tower=True),
    "qwen3_vl": Family(is_proven=True, has_grid_tower=True, while_training=dense_deepstack),
    "qwen3_vl_moe": Family(is_proven=True, has_grid_tower=True, while_training=dense_deepstack),
    "llava": Family(is_proven=True, while_embedding=merge_by_gather),
    "pixtral": Family(is_proven=True),
    "mllama": Family(is_proven=True, complete=no_cross_attention),
    "deepseek_vl_v2": Family(
        is_proven=True,
        template=DEEPSEEK_TEMPLATE,
        mend_inputs=pad_spatial_crop,
        while_training=undifferentiated_indices,
    ),
    # Refused until they are proven: trained as they are, they would learn something else.
    **dict.fromkeys(
        ("llava_next", "granite_vision", "llava_bunny", "fastvlm", "phi4_siglip", "phi4mm"),
        Family(refused=_EXPANDS),
    ),
    **dict.fromkeys(
        (
            "gemma3",
            "gemma4",
            "gemma4_unified",
            "paligemma",
            "moondream2",
            "moondream3",
            "falcon_ocr",
        ),
        Family(refused=_OWN_MASK),
    ),
    "gemma3n": Family(refused="its layers share keys and values through a cache that training has to provide"),
    "deepseek_v4": Family(refused="its attention is causal only with a cache that training has to provide"),
    "deepseek_v41": Family(refused="mlx-vlm 0.7.10's model lets earlier tokens see later ones"),
    "mistral_large3": Family(refused="mlx-vlm 0.7.10's model ignores the image"),
    "muse_spark": Family(refused="its layers are Metal kernels without gradients"),
    "falcon_perception": Family(refused="its masks and positions live in the model and cannot be batched"),
    "molmo_point": Family(refused="its logits need a part of the model that vlora does not call"),
    "florence2": Family(refused="it is an encoder-decoder"),
    "nemotron_parse": Family(refused="it is an encoder-decoder"),
    "ernie4_5_moe_vl": Family(refused="its experts need token types that vlora does not pass yet"),
    "zaya1_vl": Family(refused="its layers need an image mask that vlora does not pass yet"),
    "granite4_vision": Family(refused="its image features enter several layers, which vlora does not do yet"),
    "glm5_next": Family(refused="its sparse attention has no gradient"),
    "cohere_compass": Family(refused="it computes logits row by row, which the compiled step cannot follow"),
}


def describe_family(model_type: str) -> Family:
    """Look a family up; an unlisted one is run generically, after the probes."""
    return FAMILIES.get(model_type, Family())
