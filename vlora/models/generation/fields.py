"""Selects the language model's inputs at some places of a batch's rows. Pure."""

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..forward.lm_inputs import LOGIT_PLACES, Layouts, LMInputs, PadSpec

OF_IMAGES = ("deepstack_visual_embeds", "visual_pos_masks")
"""Inputs that are absent at places without an image."""


def cut_fields(fields: LMInputs, layouts: Layouts, length: int, n_tokens: int) -> LMInputs:
    """Cut the inputs to a number of places.

    Args:
        fields: A batch's.
        layouts: The family's.
        length: Places to keep of the rows that the language model sees.
        n_tokens: Places to keep of the batch's tokens; another number only if images expand within the model.
    """
    found: LMInputs = {}
    for name, value in fields.items():
        kept = n_tokens if name == LOGIT_PLACES else length
        found[name] = _each(value, functools.partial(_cut, axes=_token_axes(name, layouts), length=kept))
    return found


def pick_fields(fields: LMInputs, layouts: Layouts, places: mx.array, seen: int | None = None) -> LMInputs:
    """Select the inputs at one place of each row, where there is no image.

    Args:
        fields: A batch's.
        layouts: The family's.
        places: i32[B], places within the rows that the language model sees.
        seen: Number of keys that a mask among the inputs covers; None for all.
    """
    return {
        name: _each(value, functools.partial(_pick, spec=layouts[name], places=places, seen=seen))
        for name, value in fields.items()
        if name not in (*OF_IMAGES, LOGIT_PLACES)
    }


def _token_axes(name: str, layouts: Layouts) -> tuple[int, ...]:
    if name == LOGIT_PLACES:
        return (1,)
    return layouts[name].token_axes if layouts[name].follows_tokens else ()


def _cut(array: mx.array, axes: tuple[int, ...], length: int) -> mx.array:
    for axis in axes:
        index = [slice(None)] * array.ndim
        index[axis] = slice(0, length)
        array = array[tuple(index)]
    return array


def _pick(array: mx.array, spec: PadSpec, places: mx.array, seen: int | None) -> mx.array:
    if not spec.follows_tokens:
        return array
    axes = spec.token_axes
    shape = [1] * array.ndim
    shape[spec.batch_axis] = len(places)
    index = mx.broadcast_to(
        places.reshape(shape), [1 if axis == axes[0] % array.ndim else size for axis, size in enumerate(array.shape)]
    )
    picked = mx.take_along_axis(array, index, axis=axes[0])
    return _cut(picked, axes[1:], seen) if seen is not None else picked


def _each(value: Any, change: Callable[[mx.array], mx.array]) -> Any:
    return [change(part) for part in value] if isinstance(value, (list, tuple)) else change(value)
