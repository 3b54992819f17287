"""Llama 4. Files and lines are those of mlx-vlm 0.7.10."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..forward.corrections import approximate_gelu
from ..forward.overrides import override_attributes
from .family import Family, Forward


def match_reference_llama4_tower(model: nn.Module) -> AbstractContextManager[None]:
    """Use the exact activation in Llama 4's tower and its projector (llama4/vision.py:155)."""
    return approximate_gelu("none", model.vision_model)


@contextmanager
def match_reference_llama4_norms(model: nn.Module) -> Iterator[None]:
    """Normalize queries and keys with the configured epsilon, where mlx-vlm has 1e-6 (llama4/language.py:79)."""
    language_model = model.language_model
    epsilon = language_model.config.rms_norm_eps

    def normalized(rotate: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(x: mx.array, **options: Any) -> mx.array:
            return mx.fast.rms_norm(rotate(x, **options), None, epsilon)

        return call

    with ExitStack() as stack:
        for layer in language_model.model.layers:
            attention = layer.self_attn
            if attention.use_qk_norm:
                # Queries and keys are rotated, and then normalized.
                stack.enter_context(override_attributes(attention, use_qk_norm=False, rope=normalized(attention.rope)))
        yield


FAMILIES: Mapping[str, Family] = {
    "llama4": Family(
        forward=Forward(
            embed_overrides=match_reference_llama4_tower,
            train_overrides=match_reference_llama4_norms,
            equal_prompts="layers see chunks, which are counted from one place of a batch",
        ),
        upstream_differs=(
            "the tower's activation is approximated, and norms of queries and keys have an epsilon of their own "
            "(llama4/vision.py:155, language.py:79)"
        ),
    ),
}
