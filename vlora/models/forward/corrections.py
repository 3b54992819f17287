"""Corrections of errors that several families of mlx-vlm share.

Every correction names what it works around, with file and line of mlx-vlm 0.7.10, so that it can be removed when
upstream mends it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .overrides import Override, replaced_functions


def sliced_splits(_: nn.Module) -> AbstractContextManager[None]:
    """Split arrays by slicing.

    The M-RoPE of GLM-4V and PaddleOCR-VL splits one array of cosines twice (rope_utils.py:1365), and `mx.compile` of
    MLX 0.32 ends with an IndexError on repeated `mx.split` of one array on the CPU.
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
    """Set the approximation of activations ("none" for the exact one), and restore it afterwards."""
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
    """Clear arrays that a model caches and that depend on trained weights.

    Kimi-K3's layers keep the product of a norm and a projection (kimi_k3/language.py:747, :822), Inkling's a scale
    (inkling/language.py:749), Molmo-Point's head its two tables as one (molmo_point/language.py:209), and compute
    them once: a traced step would leave a tracer there, with which the next answer fails, and an answer would leave the
    values of the weights at that time.

    Args:
        names: The attributes with cached arrays; None means that they are to be computed.
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
