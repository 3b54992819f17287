"""Corrections of what mlx-vlm's models get wrong, each of one model's instance and only while it runs.

Every correction names what it works around, with file and line of mlx-vlm 0.7.10, so that it can be removed when
upstream mends it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import scaled_dot_product_attention

ATTENTION = scaled_dot_product_attention.__name__

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


@contextmanager
def attending(module: nn.Module, attend: Callable[..., mx.array]) -> Iterator[None]:
    """Let a model's layers attend otherwise: each of their files imports mlx-vlm's attention."""
    with ExitStack() as stack:
        for file in {sys.modules[type(child).__module__] for child in module.modules()}:
            if getattr(file, ATTENTION, None) is scaled_dot_product_attention:
                stack.callback(setattr, file, ATTENTION, scaled_dot_product_attention)
                setattr(file, ATTENTION, attend)
        yield


def dense_deepstack(model: nn.Module) -> AbstractContextManager[None]:
    """Add the deepstack features as the dense f[B, T, D] that the backbone makes of them.

    `_deepstack_process` (qwen3_vl/language.py:236, qwen3_vl_moe/language.py:274) finds the image tokens with
    `np.where`, which cannot be traced.
    """

    def add(hidden: mx.array, _: Any, features: mx.array) -> mx.array:
        return hidden + features

    return override_attributes(model.language_model.model, _deepstack_process=add)


IMAGE_TOKENS = ("image_token_index", "image_token_id", "media_placeholder_token_id")
"""The names under which configurations keep the ids of the tokens that stand for image features."""


def image_ids(model: nn.Module) -> tuple[int, ...]:
    """Find the ids of the tokens that stand for image features, under any of the names that configurations have."""
    return tuple(
        int(getattr(model.config, name)) for name in IMAGE_TOKENS if getattr(model.config, name, None) is not None
    )


def merge_by_gather(method: str) -> Override:
    """Merge image features into the text so that their gradient exists.

    `inputs_embeds[:, positions, :] = features` has no gradient with respect to the features in MLX 0.32, so that the
    tower and the projector could not be trained: llava/llava.py:113, internvl_chat/internvl_chat.py:105,
    aya_vision/aya_vision.py:153, kimi_k25/kimi_k25.py:131, llmjpvl/llmjpvl.py:102, plamo2vl/plamo2vl.py:132.

    Args:
        method: The model's method that merges: (features, embeddings, tokens, ...) to embeddings. What follows are
            ids that the processor found to stand for image features; they count, if there are any.
    """

    def correction(model: nn.Module) -> AbstractContextManager[None]:
        def merge(features: mx.array, embeds: mx.array, tokens: mx.array, *given: Any, **named: Any) -> mx.array:
            found = tuple(int(token) for token in (*given, *named.values()) if token is not None)
            placeholders = np.isin(np.array(tokens), found or image_ids(model))
            return scatter_features(embeds, features.reshape(-1, features.shape[-1]), placeholders)

        return override_attributes(model, **{method: merge})

    return correction


merge_features = merge_by_gather("_merge_input_ids_with_image_features")
"""`merge_by_gather` under the name that most of these models have for the method."""


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
def approximate_gelu(approximation: str, *parts: nn.Module) -> Iterator[None]:
    """Let activations be approximated so ("none": not at all), and as they were afterwards."""
    activations = [module for part in parts for _, module in part.named_modules() if isinstance(module, nn.GELU)]
    before = [activation._approx for activation in activations]  # noqa: SLF001 - it has no other switch
    try:
        for activation in activations:
            activation._approx = approximation  # noqa: SLF001
        yield
    finally:
        for activation, own in zip(activations, before, strict=True):
            activation._approx = own  # noqa: SLF001


def forget_attributes(*names: str) -> Override:
    """Let a model keep nothing that it has made of weights which are trained.

    Kimi-K3's layers keep the product of a norm and a projection (kimi_k3/language.py:747, :822), Inkling's a scale
    (inkling/language.py:749), Molmo-Point's head its two tables as one (molmo_point/language.py:209), and make them
    once: a traced step would leave a tracer there, on which the next answer fails, and an answer would leave what the
    weights were then.

    Args:
        names: The attributes in which modules keep it; None means that it is to be made.
    """

    def forget(model: nn.Module) -> None:
        for module in model.modules():
            for name in names:
                if getattr(module, name, None) is not None:
                    setattr(module, name, None)

    @contextmanager
    def override(model: nn.Module) -> Iterator[None]:
        forget(model)
        try:
            yield
        finally:
            forget(model)

    return override
