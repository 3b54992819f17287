"""Corrections of what mlx-vlm's models get wrong, each of one model's instance and only while it runs.

Every correction names what it works around, with file and line of mlx-vlm 0.7.10, so that it can be removed when
upstream mends it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...errors import ModelError

LATENT_EPSILON = 1e-6

Inputs = dict[str, Any]
Override = Callable[[nn.Module], AbstractContextManager[Any]]


@contextmanager
def override_attributes(target: Any, **replacements: Any) -> Iterator[None]:
    """Shadow methods and attributes of one object; the class and every other object keep theirs."""
    own = {name: vars(target)[name] for name in replacements if name in vars(target)}
    for name, value in replacements.items():
        object.__setattr__(target, name, value)
    try:
        yield
    finally:
        for name in replacements:
            object.__delattr__(target, name)
        for name, value in own.items():
            object.__setattr__(target, name, value)


@contextmanager
def override_call(target: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let calls of one module run a function instead."""
    cls = type(target)
    try:
        target.__class__ = type(
            f"Replaced{cls.__name__}", (cls,), {"__call__": lambda _, *args, **kwargs: function(*args, **kwargs)}
        )
        yield
    finally:
        target.__class__ = cls


def dense_deepstack(model: nn.Module) -> AbstractContextManager[None]:
    """Add the deepstack features as the dense f[B, T, D] that the backbone makes of them.

    `_deepstack_process` (qwen3_vl/language.py:236, qwen3_vl_moe/language.py:274) finds the image tokens with
    `np.where`, which cannot be traced.
    """

    def add(hidden: mx.array, _: Any, features: mx.array) -> mx.array:
        return hidden + features

    return override_attributes(model.language_model.model, _deepstack_process=add)


def merge_by_gather(method: str, *, is_image: Callable[[nn.Module], tuple[int, ...]]) -> Override:
    """Merge image features into the text so that their gradient exists.

    `inputs_embeds[:, positions, :] = features` has no gradient with respect to the features in MLX 0.32, so that the
    tower and the projector could not be trained: llava/llava.py:113, internvl_chat/internvl_chat.py:105,
    aya_vision/aya_vision.py:153, kimi_k25/kimi_k25.py:131, llmjpvl/llmjpvl.py:102, plamo2vl/plamo2vl.py:132.

    Args:
        method: The model's method that merges: (features, embeddings, tokens, ...) to embeddings. What follows are
            ids that the processor found to stand for image features; they count, if there are any.
        is_image: The ids of the tokens that stand for image features by the model's configuration: (model) to ids.
    """

    def correction(model: nn.Module) -> AbstractContextManager[None]:
        def merge(features: mx.array, embeds: mx.array, tokens: mx.array, *given: Any, **named: Any) -> mx.array:
            found = tuple(int(token) for token in (*given, *named.values()) if token is not None)
            placeholders = np.isin(np.array(tokens), found or is_image(model))
            return scatter_features(embeds, features.reshape(-1, features.shape[-1]), placeholders)

        return override_attributes(model, **{method: merge})

    return correction


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
    return scatter_layers([embeds], [features], is_image)[0]


def scatter_layers(
    onto: Sequence[mx.array], layers: Sequence[mx.array], is_image: "np.ndarray[Any, Any]"
) -> list[mx.array]:
    """Put several layers' features where the image tokens stand, as `scatter_features` does with one.

    Args:
        onto: For each layer f[B, T, D].
        layers: Of each layer f[N, D].
        is_image: bool[B, T], on the host, with N True.

    Returns:
        For each layer f[B, T, D].

    Raises:
        ValueError: N differs from the number of image tokens.
    """
    n_tokens, n_features = int(is_image.sum()), layers[0].shape[0]
    if n_tokens != n_features:
        msg = f"{n_tokens} image tokens stand for {n_features} image features"
        raise ValueError(msg)
    if not n_features:
        return list(onto)
    index = np.where(is_image, np.cumsum(is_image.reshape(-1)).reshape(is_image.shape) - 1, 0)
    places, mask = mx.array(index.astype(np.int32)), mx.array(is_image)[..., None]
    return [
        mx.where(mask, features[places].astype(embeds.dtype), embeds)
        for embeds, features in zip(onto, layers, strict=True)
    ]


def chain(*corrections: Override) -> Override:
    """Combine corrections into one."""

    @contextmanager
    def combined(model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for correction in corrections:
                stack.enter_context(correction(model))
            yield

    return combined


@contextmanager
def replaced_functions(**replacements: Callable[..., Any]) -> Iterator[None]:
    """Replace functions of `mlx.core` by name, only for as long as one model's language step is traced or run."""
    originals = {name: getattr(mx, name) for name in replacements}
    try:
        for name, function in replacements.items():
            setattr(mx, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(mx, name, function)


def unevaluated(_: nn.Module) -> AbstractContextManager[None]:
    """Let the language model not evaluate its positions, which a trace cannot (qwen3_omni_moe/language.py:648)."""
    return replaced_functions(eval=lambda *_: None)


def sliced_splits(_: nn.Module) -> AbstractContextManager[None]:
    """Split arrays by slicing.

    The M-RoPE of GLM-4V and PaddleOCR-VL takes one cosine apart twice (rope_utils.py:1365), and `mx.compile` of MLX
    0.32 ends with an IndexError on repeated `mx.split` of one array on the CPU.
    """

    def split(array: mx.array, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[mx.array]:
        size = array.shape[axis]
        if isinstance(indices_or_sections, int):
            width = size // indices_or_sections
            ends = [width * (part + 1) for part in range(indices_or_sections)]
        else:
            ends = [*indices_or_sections, size]
        before = (slice(None),) * (axis % array.ndim)
        return [array[(*before, slice(start, end))] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    return replaced_functions(split=split)


def undifferentiated_indices(_: nn.Module) -> AbstractContextManager[None]:
    """Let no gradient flow into the choice of experts.

    DeepSeek's router scatters with computed indices (deepseek_vl_v2/language.py, MoEGate) without stopping the
    gradient, and MLX refuses to differentiate with respect to indices. mx's functions are wrapped only here.
    """

    def stop_result(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        return lambda *args, **kwargs: mx.stop_gradient(function(*args, **kwargs))

    def stop_indices(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(array: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            return function(array, mx.stop_gradient(indices), *args, **kwargs)

        return call

    choosers = {name: stop_result(getattr(mx, name)) for name in ("argpartition", "argsort", "argmax", "argmin")}
    takers = {name: stop_indices(getattr(mx, name)) for name in ("take_along_axis", "put_along_axis")}
    return replaced_functions(**choosers, **takers)


@contextmanager
def chosen_without_gradient(model: nn.Module) -> Iterator[None]:
    """Let no gradient flow into the choice of earlier tokens.

    GLM-5's indexer names the tokens that are attended to (glm5_next/language.py, Glm5NextIndexer) as integers, but
    made by arithmetic, through which MLX would differentiate.
    """

    def stopped(indexer: nn.Module) -> AbstractContextManager[None]:
        cls = type(indexer)
        return override_call(indexer, lambda *args, **kwargs: mx.stop_gradient(cls.__call__(indexer, *args, **kwargs)))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.endswith(".indexer"):
                stack.enter_context(stopped(module))
        yield


@contextmanager
def batched_rows(_: nn.Module) -> Iterator[None]:
    """Let Cohere Compass run rows together, its head included, not one by one (cohere_compass/language.py:134)."""
    from mlx_vlm.models.cohere_compass import language as compass

    rowwise = compass._rowwise_batch  # noqa: SLF001
    compass._rowwise_batch = lambda module, hidden: module(hidden)  # noqa: SLF001
    try:
        yield
    finally:
        compass._rowwise_batch = rowwise  # noqa: SLF001


def fix_deepseek(module: nn.Module) -> None:
    """Give DeepSeek-VL2's latent attention the rotation and the epsilon that it was trained with.

    Its pairs to rotate lie side by side; mlx-vlm rotates the first half against the second, unless config.json says
    `rope_traditional`, which no published one does (deepseek_vl_v2/config.py:35, language.py:150). The latents' norms
    have mlx's epsilon (language.py:123, :133), where the published model's is 1e-6. The smallest model, without
    latents, is a Llama and right.

    Raises:
        ModelError: Its experts are chosen in another way than the greedy one, of which mlx-vlm leaves a part out.
    """
    for layer in module.language_model.model.layers:
        attention = layer.self_attn
        if "gate" in layer.mlp and layer.mlp.gate.topk_method != "greedy":
            msg = (
                f"model.path: the experts of this DeepSeek-VL2 are chosen by {layer.mlp.gate.topk_method!r}, and "
                "mlx-vlm 0.7.10 leaves their correction and the normalization of their weights out "
                "(deepseek_vl_v2/language.py:335); only models that choose greedily are trained"
            )
            raise ModelError(msg)
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


def no_cross_attention(model: nn.Module, tokens: mx.array, inputs: Inputs, fields: Inputs) -> Inputs:
    """Make Mllama's cross-attention layers add nothing to a row without images.

    The published model skips those layers then; mlx-vlm's has no way to skip them for one row of a batch. A zero
    state gives zero values (no biases), and a zero full-row mask silences the gated MLP: the layers add exactly 0.
    """
    if inputs:
        return fields
    length = tokens.shape[1]
    width = model.config.text_config.hidden_size
    return {
        **fields,
        "cross_attention_states": mx.zeros((1, 1, width), dtype=fields["inputs_embeds"].dtype),
        "cross_attention_mask": mx.zeros((1, 1, length, 1)),
        "full_text_row_masked_out_mask": mx.zeros((1, 1, length, 1), dtype=mx.bool_),
    }
