"""What differs between model families, as data, and what mlx-vlm gets wrong, mended in one place each.

A family that is not listed is run as `Family()` describes: rows embedded one by one, causal attention, no
corrections; before it is trained, `vlora.backend.probes` checks on real rows that this is right for it.
Corrections act on one model's instance and only while a step runs. Versions and lines: mlx-vlm 0.7.10.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
import numpy as np

Inputs = dict[str, Any]
Correction = Callable[[nn.Module], AbstractContextManager[Any]]


def no_fields(_: nn.Module, __: int) -> Inputs:
    """Need nothing more for a row without images."""
    return {}


@attrs.frozen(kw_only=True)
class Family:
    """How a family is embedded, encoded and run.

    Attributes:
        refused: Why the family is not trained; None if it is.
        is_proven: Tests show its losses, gradients, padding and causality; no probe at start-up.
        has_grid_tower: The tower takes patches and a grid (Qwen-VL), so that images of one size go through it
            together and compiled.
        template: The chat template where mlx-vlm's is wrong; None for the model's own.
        untouchable: Last parts of the names of layers whose weights the model reads directly; no adapters.
        mend_inputs: Corrects a row's processor output before the model sees it.
        text_only_fields: What the language model needs of a row without images: (model, T) to fields.
        while_embedding: Corrections of the model while rows are embedded.
        while_training: Corrections of the model while the language step is traced or run.
    """

    refused: str | None = None
    is_proven: bool = False
    has_grid_tower: bool = False
    template: str | None = None
    untouchable: tuple[str, ...] = ()
    mend_inputs: Callable[[Inputs], Inputs] = dict
    text_only_fields: Callable[[nn.Module, int], Inputs] = no_fields
    while_embedding: Correction = contextlib.nullcontext
    while_training: Correction = contextlib.nullcontext


@contextmanager
def instance_attributes(target: Any, **replacements: Any) -> Iterator[None]:
    """Shadow methods of one object; the class and every other object keep theirs."""
    for name, value in replacements.items():
        object.__setattr__(target, name, value)
    try:
        yield
    finally:
        for name in replacements:
            object.__delattr__(target, name)


def dense_deepstack(model: nn.Module) -> AbstractContextManager[None]:
    """Add the deepstack features as the dense f[B, T, D] that the backbone makes of them.

    `_deepstack_process` (qwen3_vl/language.py:236, qwen3_vl_moe/language.py:274) finds the image tokens with
    `np.where`, which cannot be traced.
    """

    def add(hidden: mx.array, _: Any, features: mx.array) -> mx.array:
        return hidden + features

    return instance_attributes(model.language_model.model, _deepstack_process=add)


def merge_by_gather(model: nn.Module) -> AbstractContextManager[None]:
    """Merge LLaVA's image features so that their gradient exists.

    `inputs_embeds[:, positions, :] = features` (llava/llava.py:113) has no gradient with respect to the features
    in MLX 0.32, so that the tower and the projector could not be trained.
    """

    def merge(features: mx.array, embeds: mx.array, tokens: mx.array) -> mx.array:
        is_image = np.array(tokens) == model.config.image_token_index
        return scatter_features(embeds, features.reshape(-1, features.shape[-1]), is_image)

    return instance_attributes(model, _merge_input_ids_with_image_features=merge)


def scatter_features(embeds: mx.array, features: mx.array, is_image: "np.ndarray[Any, Any]") -> mx.array:
    """Put features, in order, where the image tokens stand.

    Args:
        embeds: f[B, T, D].
        features: f[N, D].
        is_image: bool[B, T], on the host, with N True.

    Returns:
        f[B, T, D] in the type of `embeds`.

    Raises:
        ValueError: N differs from the number of image tokens; MLX itself would read out of bounds.
    """
    if int(is_image.sum()) != features.shape[0]:
        msg = f"{int(is_image.sum())} image tokens stand for {features.shape[0]} image features"
        raise ValueError(msg)
    if not features.shape[0]:
        return embeds
    index = np.where(is_image, np.cumsum(is_image.reshape(-1)).reshape(is_image.shape) - 1, 0)
    gathered = features[mx.array(index.astype(np.int32))].astype(embeds.dtype)
    return mx.where(mx.array(is_image)[..., None], gathered, embeds)


@contextmanager
def undifferentiated_indices(_: nn.Module) -> Iterator[None]:
    """Let no gradient flow into the choice of experts.

    DeepSeek's router scatters with computed indices (deepseek_vl_v2/language.py, MoEGate) without stopping the
    gradient, and MLX refuses to differentiate with respect to indices. mx's functions are wrapped only here.
    """
    choosers = ("argpartition", "argsort", "argmax", "argmin")
    takers = ("take_along_axis", "put_along_axis")
    originals = {name: getattr(mx, name) for name in (*choosers, *takers)}

    def stop_result(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        return lambda *args, **kwargs: mx.stop_gradient(function(*args, **kwargs))

    def stop_indices(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(array: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            return function(array, mx.stop_gradient(indices), *args, **kwargs)

        return call

    try:
        for name in choosers:
            setattr(mx, name, stop_result(originals[name]))
        for name in takers:
            setattr(mx, name, stop_indices(originals[name]))
        yield
    finally:
        for name, function in originals.items():
            setattr(mx, name, function)


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


def no_cross_attention(model: nn.Module, length: int) -> Inputs:
    """Make Mllama's cross-attention layers add nothing to a row without images.

    The published model skips those layers then; mlx-vlm's has no way to skip them for one row of a batch. A zero
    state gives zero values (no biases), and a zero full-row mask silences the gated MLP: the layers add exactly 0.
    """
    embeddings = model.language_model.model.embed_tokens
    width = model.config.text_config.hidden_size
    dtype = embeddings(mx.array([0])).dtype
    return {
        "cross_attention_states": mx.zeros((1, 1, width), dtype=dtype),
        "cross_attention_mask": mx.zeros((1, 1, length, 1)),
        "full_text_row_masked_out_mask": mx.zeros((1, 1, length, 1), dtype=mx.bool_),
    }


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
    "mllama": Family(is_proven=True, text_only_fields=no_cross_attention),
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
