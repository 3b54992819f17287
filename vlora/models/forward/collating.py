"""Combines the language model's inputs of single rows to those of a batch, or of a packed row. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from ...errors import BatchError
from ...ops.buckets import bucket_length
from .lm_inputs import LAYOUTS, LOGIT_PLACES, MASKED, Layouts, LMInputs, PadSpec, StackInputs, stack_nothing


def collate_inputs(
    rows: Sequence[Mapping[str, Any]],
    n_rows: int,
    length: int,
    layouts: Layouts = LAYOUTS,
    stack: StackInputs = stack_nothing,
) -> LMInputs:
    """Pad rows' fields on the right and stack them; filler rows repeat the last row.

    Args:
        rows: Per row: field name to array with a batch dimension of 1, or to a list of such arrays. The layout
            says what a row without a field gets.
        n_rows: B, at least as many as there are rows.
        length: T of the batch's tokens. Where images expand within the model, the fields are longer than that, and
            padded to a bucket of their own.
        layouts: How each field is padded and stacked.
        stack: Stacks the fields that cannot be padded one by one.

    Returns:
        Field name to array (or list of arrays), B first (second to last in position ids).

    Raises:
        BatchError: A field has no layout, or rows cannot be in one batch.
    """
    filled = [*rows, *([rows[-1]] * (n_rows - len(rows)))]
    # In a fixed order: another order would need another trace.
    names = sorted({name for row in filled for name in row})
    width = length
    if LOGIT_PLACES in names:
        width = bucket_length(max(row["inputs_embeds"].shape[1] for row in filled))
    joint = stack(filled, length)
    stacked: LMInputs = {}
    for name in names:
        if name in joint:
            continue
        if name == LOGIT_PLACES:
            stacked[name] = _stack([row[name] for row in filled], PadSpec(padding="edge"), length)
            continue
        if name not in layouts:
            msg = f"the language model's input {name!r} has no layout; give it one in the family's Forward.own_inputs"
            raise BatchError(msg)
        stacked[name] = _collate_one(filled, name, layouts[name], width)
    return stacked | joint


def _collate_one(rows: Sequence[Mapping[str, Any]], name: str, layout: PadSpec, width: int) -> Any:
    """Stack one input of all rows: an array, or a list of them with one for each layer."""
    first = _widest(rows, name)
    own = bucket_length(max(row[name].shape[1] for row in rows)) if layout.is_prompt else width
    if isinstance(first, (list, tuple)):
        return [
            _stack([_part(row, name, layout, layer, first[layer]) for row in rows], layout, own)
            for layer in range(len(first))
        ]
    return _stack([_part(row, name, layout, None, first) for row in rows], layout, own)


def concat_inputs(
    examples: Sequence[Mapping[str, Any]], spans: Sequence[tuple[int, int, int]], layouts: Layouts = LAYOUTS
) -> list[LMInputs]:
    """Concatenate the fields of packed examples, row by row.

    Args:
        examples: Per example, the fields that `collate_inputs` takes per row.
        spans: (row, first place, places) of each example, as `Batch.spans`.
        layouts: How each field is padded and joined.

    Returns:
        The rows' fields, for `collate_inputs`.

    Raises:
        BatchError: A field does not follow the tokens.
    """
    rows: dict[int, list[tuple[Mapping[str, Any], int, int]]] = {}
    for fields, (row, start, count) in zip(examples, spans, strict=True):
        rows.setdefault(row, []).append((fields, start, count))
    names = {name for fields in examples for name in fields}
    if unfit := sorted(name for name in names if name not in layouts or not layouts[name].follows_tokens):
        msg = f"the language model's input {unfit[0]!r} does not follow the tokens: rows of this model cannot be packed"
        raise BatchError(msg)
    joined: list[LMInputs] = [{} for _ in rows]
    for name in names:
        first, layout = _widest(examples, name), layouts[name]
        for row, members in rows.items():
            if isinstance(first, (list, tuple)):
                joined[row][name] = [
                    _join(
                        [(_part(fields, name, layout, layer, like), start, count) for fields, start, count in members],
                        layout,
                    )
                    for layer, like in enumerate(first)
                ]
            else:
                parts = [(_part(fields, name, layout, None, first), start, count) for fields, start, count in members]
                joined[row][name] = _join(parts, layout)
    return joined


def _join(parts: Sequence[tuple[mx.array, int, int]], layout: PadSpec) -> mx.array:
    """Join one field of a row's examples, each with its first place and its number of places."""
    cut = [(_pad(value, layout, count), start) for value, start, count in parts]
    if layout.counts_places:
        cut = [(value + start, start) for value, start in cut]
    if len(layout.token_axes) == 1:
        return mx.concatenate([value for value, _ in cut], axis=layout.token_axes[0])
    # A mask over two axes: blocks along the diagonal, False elsewhere.
    length = sum(count for _, _, count in parts)
    closed: Any = False if cut[0][0].dtype == mx.bool_ else MASKED
    rows = []
    for value, start in cut:
        rest = length - start - value.shape[-1]
        widths = [(0, 0)] * (value.ndim - 1) + [(start, rest)]
        rows.append(mx.pad(value, widths, constant_values=closed))
    return mx.concatenate(rows, axis=layout.token_axes[0])


def _widest(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return a row's value of a field with the most axes: positions of text alone may have fewer."""
    return max((row[name] for row in rows if name in row), key=lambda value: getattr(value, "ndim", 0))


def _part(row: Mapping[str, Any], name: str, layout: PadSpec, layer: int | None, like: mx.array) -> mx.array:
    """Return a row's array of a field with as many axes as another row's; `PadSpec.absent` for a row without it."""
    if name in row:
        value: mx.array = row[name] if layer is None else row[name][layer]
        return value if value.ndim == like.ndim else mx.broadcast_to(value, (*like.shape[:-1], value.shape[-1]))
    shape = list(like.shape)
    for axis in layout.token_axes:
        shape[axis] = row["inputs_embeds"].shape[1]
    if layout.absent == "zero":
        return mx.zeros(shape, dtype=like.dtype)
    place = mx.arange(shape[-1])
    if layout.absent == "count":
        return mx.broadcast_to(place.astype(like.dtype), shape)
    seen = place[:, None] >= place[None]
    if like.dtype != mx.bool_:
        seen = mx.where(seen, 0, MASKED).astype(like.dtype)
    return mx.broadcast_to(seen, shape)


def _stack(values: Sequence[mx.array], layout: PadSpec, length: int) -> mx.array:
    if not layout.token_axes and len({value.shape for value in values}) > 1:
        shapes = sorted({str(value.shape[1:]) for value in values})
        msg = f"rows with {' and '.join(shapes)} states of images cannot stand in one batch; give images of one size"
        raise BatchError(msg)
    padded = [_pad(value, layout, length) for value in values] if layout.token_axes else list(values)
    axis = layout.batch_axis if layout.batch_axis >= 0 else padded[0].ndim + layout.batch_axis
    return mx.concatenate(padded, axis=axis)


def _pad(array: mx.array, layout: PadSpec, length: int) -> mx.array:
    own = array.shape[layout.token_axes[0]]
    if own > length:
        # The last token of the longest row, which a batch leaves out.
        for axis in layout.token_axes:
            array = mx.take(array, mx.arange(length), axis=axis)
        return array
    if own == length:
        return array
    if layout.padding == "edge":
        for axis in layout.token_axes:
            array = pad_edge(array, length, axis)
        return array
    widths = [(0, 0)] * array.ndim
    for axis in layout.token_axes:
        widths[axis] = (0, length - own)
    if layout.padding == "zero":
        return mx.pad(array, widths)
    place = mx.arange(length)
    added = (place >= own)[:, None]
    if array.dtype == mx.bool_:
        return mx.pad(array, widths) | (added & (place[:, None] >= place[None]))
    closed = mx.pad(array, widths, constant_values=MASKED)
    return mx.where(added & (place[:, None] >= place[None]), mx.array(0, dtype=array.dtype), closed)


def pad_edge(array: mx.array, length: int, axis: int) -> mx.array:
    """Pad an axis to a length by repeating its last place, or cut it."""
    missing = length - array.shape[axis]
    if missing <= 0:
        return array if not missing else mx.take(array, mx.arange(length), axis=axis)
    last = mx.take(array, mx.array([array.shape[axis] - 1]), axis=axis)
    return mx.concatenate([array, mx.repeat(last, missing, axis=axis)], axis=axis)
