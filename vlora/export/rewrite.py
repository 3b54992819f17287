"""A base's own files written again, with what was trained in them: names, layouts and types stay as they are."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import attrs
import mlx.core as mx
import mlx.nn as nn

from .. import models
from ..adapters.merge import Rounding, quantized_parts, squares, unpacked
from ..errors import ModelError
from ..models.published.tracing import Piece
from ..output.checkpoint import read_arrays
from .shards import ShardWriter
from .trained import Trained

PARTS = ("weight", "scales", "biases")

Block = tuple[dict[str, mx.array], tuple[float, float, float]]
"""Parts of a quantized layer, and what quantizing has changed of it."""

MOST_AT_ONCE = 1 << 20
"""Numbers of a layer that are unpacked and packed at a time: 4 MB in float32."""


@attrs.define(eq=False)
class Rewriter:
    """Computes the tensors of a folder anew.

    Attributes:
        trained: What was trained.
        schemes: Layers that the folder has quantized, and how.
        pieces: Where parameters lie in the folder's tensors.
        places: The file of each tensor.
        rounding: What quantizing again has changed so far.
    """

    trained: Trained
    schemes: Mapping[str, models.Scheme]
    pieces: Mapping[str, tuple[Piece, ...]]
    places: Mapping[str, Path]
    rounding: Rounding = attrs.field(factory=Rounding)
    _last: tuple[str, dict[str, mx.array]] | None = attrs.field(default=None, init=False)
    _counted: set[str] = attrs.field(factory=set, init=False)
    _of_tensor: dict[str, list[tuple[str, Piece]]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """List what is to be computed of each tensor."""
        for parameter, pieces in self.pieces.items():
            if self.changes(parameter):
                for piece in pieces:
                    self._of_tensor.setdefault(piece.name, []).append((parameter, piece))

    def changes(self, parameter: str) -> bool:
        """Whether a parameter of the folder is written anew."""
        layer, _, part = parameter.rpartition(".")
        is_packed = layer in self.schemes and part in PARTS
        return self.trained.changes(f"{layer}.weight" if is_packed else parameter)

    def unwritable(self) -> str | None:
        """Name a trained parameter that none of the folder's tensors holds; None if all can be written."""
        layers = [f"{layer}.weight" for layer in {*self.trained.layers, *self.trained.on_loading}]
        whole = [name.replace(".linear.", ".") for name in self.trained.whole]
        for parameter in [*layers, *whole]:
            layer = parameter.rpartition(".")[0]
            parts = PARTS[: 3 if self._has_biases(layer) else 2] if layer in self.schemes else ()
            for name in [f"{layer}.{part}" for part in parts] or [parameter]:
                if not self._can_write(name):
                    return name
        return None

    def _has_biases(self, layer: str) -> bool:
        return f"{layer}.biases" in self.pieces

    def _can_write(self, parameter: str) -> bool:
        pieces = self.pieces.get(parameter, ())
        layer, _, _ = parameter.rpartition(".")
        # DoRA's norms are of whole rows, and so are the groups of what is quantized.
        needs_rows = "m" in self.trained.layers.get(layer, {}) or layer in {*self.schemes, *self.trained.on_loading}
        return bool(pieces) and (not needs_rows or all(_has_whole_rows(piece, pieces) for piece in pieces))

    def tensor(self, name: str, old: mx.array) -> mx.array | None:
        """Give a tensor of the folder as it is after training; None if the model has it no more."""
        new = old
        for parameter, piece in self._of_tensor.get(name, ()):
            layer, _, part = parameter.rpartition(".")
            if layer in self.schemes:
                packed = self._packed(layer)
                if part not in packed:
                    return None
                new = packed[part]
                continue
            whole = self.trained.trained_whole(parameter)
            if whole is not None and layer not in self.trained.layers and len(self.pieces[parameter]) == 1:
                new = _lay_out(whole, piece, old)
                continue
            value = self.trained.after(parameter, piece.read(old) + piece.offset, piece.target) - piece.offset
            laid_out = attrs.evolve(piece, target=tuple(slice(0, n) for n in piece.size)).write(value)
            if laid_out.shape == old.shape:
                new = laid_out.astype(old.dtype)
            else:
                # Assigning changes the array itself.
                new = mx.array(new)
                new[piece.source] = laid_out.astype(old.dtype)
        if new is not old:
            mx.eval(new)
            # MLX would keep what it was computed with for the next ones.
            mx.clear_cache()
        return new

    def _packed(self, layer: str) -> dict[str, mx.array]:
        """Give the parts of a quantized layer: quantized again as it was, or the table that it has become."""
        if self._last is not None and self._last[0] == layer:
            return self._last[1]
        weight = f"{layer}.weight"
        table = self.trained.trained_whole(weight)
        if table is not None:
            # The tokens of an adapter have unpacked it.
            parts = {"weight": table}
        else:
            scheme = self.schemes[layer]
            old = {part: self._read(f"{layer}.{part}") for part in PARTS if f"{layer}.{part}" in self.pieces}
            scales = old["scales"].dtype
            dtype = scales if mx.issubdtype(scales, mx.floating) else None
            parts, sums = requantized(requantized_blocks(self.trained, layer, old, scheme, scheme, dtype))
            if layer not in self._counted:
                # Its parts may lie in several files, each of which computes it.
                self._counted.add(layer)
                self.rounding = self.rounding.count(layer, *sums)
        mx.eval(parts)
        self._last = (layer, parts)
        return parts

    def _read(self, parameter: str) -> mx.array:
        name = self.pieces[parameter][0].name
        # Read anew: an array that stays in a dictionary keeps what it has read.
        found: mx.array = read_arrays(self.places[name])[name]
        return found


def row_blocks(weight: mx.array, own: models.Scheme | None) -> Iterator[slice]:
    """Divide a layer's weights into as many rows as may be unpacked at a time.

    Args:
        weight: As the base has them.
        own: How they are quantized; None if they are not.
    """
    count, *others = weight.shape
    # Packed rows have fewer words than numbers.
    width = math.prod(others) if own is None else math.prod(others) * 32 // int(own["bits"])
    step = max(1, MOST_AT_ONCE // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def requantized(blocks: Iterable[Block]) -> Block:
    """Join what `requantized_blocks` yields, and add up what quantizing has changed."""
    found: dict[str, list[mx.array]] = {}
    sums = (0.0, 0.0, 0.0)
    for parts, more in blocks:
        sums = (sums[0] + more[0], sums[1] + more[1], sums[2] + more[2])
        for part, value in parts.items():
            found.setdefault(part, []).append(value)
    return {part: joined(values) for part, values in found.items()}, sums


def requantized_blocks(
    trained: Trained,
    layer: str,
    base: Mapping[str, mx.array],
    own: models.Scheme | None,
    scheme: models.Scheme,
    dtype: mx.Dtype | None,
) -> Iterator[Block]:
    """Quantize a layer's trained weights, some rows at a time.

    Args:
        trained: What was trained.
        layer: Its name.
        base: Its parts as the base has them.
        own: How they are quantized; None if they are not.
        scheme: How it is to be quantized.
        dtype: Of the new scales, where they are numbers.

    Yields:
        The parts of some rows, and what quantizing has changed of them; see `squares`. Nothing is counted of what was
        not trained.
    """
    is_counted = trained.changes(f"{layer}.weight") or own is not None
    for rows in row_blocks(base["weight"], own):
        index = (rows, *(slice(None) for _ in base["weight"].shape[1:]))
        parts = {part: value[rows] for part, value in base.items() if part in PARTS}
        weight = parts["weight"] if own is None else unpacked(parts, own)
        after = trained.after(f"{layer}.weight", weight, index).astype(mx.float32)
        new = quantized_parts(after if dtype is None else after.astype(dtype), scheme)
        mx.eval(new)
        sums = (0.0, 0.0, 0.0)
        if is_counted:
            sums = squares(trained.before(f"{layer}.weight", weight, index), after, unpacked(new, scheme))
        del parts, weight, after
        yield new, sums
        mx.clear_cache()


def joined(blocks: list[mx.array]) -> mx.array:
    """Join the rows of blocks; these are let go."""
    whole = mx.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    blocks.clear()
    mx.eval(whole)
    return whole


def _has_whole_rows(piece: Piece, pieces: tuple[Piece, ...]) -> bool:
    """Whether a piece has all inputs of its outputs."""
    width = max(int(other.target[-1].stop) for other in pieces)
    return int(piece.target[-1].start) == 0 and int(piece.target[-1].stop) == width


def _lay_out(whole: mx.array, piece: Piece, old: mx.array) -> mx.array:
    """Lay out a parameter that one tensor is all of; tables may have got rows."""
    value = whole - piece.offset if piece.offset else whole
    if whole.shape == tuple(piece.size):
        laid_out = attrs.evolve(piece, target=tuple(slice(0, n) for n in piece.size)).write(value)
        if laid_out.shape != old.shape:
            new: mx.array = mx.array(old)
            new[piece.source] = laid_out.astype(old.dtype)
            return new
        return cast("mx.array", laid_out.astype(old.dtype))
    if piece.order != tuple(range(whole.ndim)):
        msg = f"{piece.name}: has got rows for new tokens, and lies otherwise in the files; give --quantize none or 4"
        raise ModelError(msg)
    return value.astype(old.dtype)


def rewrite(rewriter: Rewriter, paths: list[Path], writer: ShardWriter) -> None:
    """Write a folder's files again, a tensor at a time."""
    for path in paths:
        tensors = read_arrays(path)
        writer.expect(tensors)
        # The parts of a quantized layer stand together in this order.
        for name in sorted(tensors):
            new = rewriter.tensor(name, tensors.pop(name))
            if new is not None:
                writer.add(name, new)
            # What was read goes before more is.
            del new
            mx.clear_cache()
        if len(paths) > 1:
            writer.flush()


def packed_layers(module: nn.Module) -> Iterator[tuple[str, models.Scheme]]:
    """Yield the quantized layers of a model, and how they are quantized."""
    for name, layer in module.named_modules():
        scheme = models.scheme_of(layer)
        if scheme is not None:
            yield name, scheme
