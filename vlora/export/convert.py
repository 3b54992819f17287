"""A base written in mlx-vlm's own layout, with what was trained in it, its layers quantized as they are to be."""

from collections import Counter
from collections.abc import Iterator, Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import models
from ..adapters.merge import Rounding, unpacked
from .rewrite import requantized, row_blocks
from .shards import ShardWriter
from .trained import Trained

PARTS = ("weight", "scales", "biases")


def convert(trained: Trained, module: nn.Module, schemes: Mapping[str, models.Scheme], writer: ShardWriter) -> Rounding:
    """Write a model's parameters, a layer at a time; each is let go when its file is written.

    Args:
        trained: What was trained.
        module: The base, its weights only promised; it has none afterwards.
        schemes: Layers that are to be quantized, and how.
        writer: Takes the arrays.

    Returns:
        What quantizing has changed.
    """
    rounding = Rounding()
    dtype = _main_dtype(module)
    tied = models.tied_heads(trained.backbone.module)
    for name, layer, arrays in _take_apart(module):
        written = dict(arrays)
        # mlx-vlm's own conversion writes a head that is the embeddings' table once more.
        known = tied.get(name, name)
        if "weight" in arrays:
            table = trained.trained_whole(f"{known}.weight")
            if table is not None and known not in trained.layers and known not in schemes:
                written = {part: value for part, value in arrays.items() if part not in PARTS}
                written["weight"] = table.astype(_dtype_of(arrays, dtype))
            elif _is_written_otherwise(trained, known, layer, schemes):
                written, rounding = _written(trained, known, layer, arrays, schemes.get(known), rounding, dtype)
        for part, value in written.items():
            whole = trained.trained_whole(f"{name}.{part}") if part not in PARTS else None
            array = value if whole is None else whole.astype(value.dtype)
            mx.eval(array)
            writer.add(f"{name}.{part}" if name else part, array)
        # MLX would keep what each layer was computed with for the next ones.
        mx.clear_cache()
    return rounding


def _is_written_otherwise(trained: Trained, name: str, layer: nn.Module, schemes: Mapping[str, models.Scheme]) -> bool:
    """Whether a layer's weights are not those of the base's files."""
    return trained.changes(f"{name}.weight") or schemes.get(name) != models.scheme_of(layer)


def _take_apart(module: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, mx.array]]]:
    """Yield each module that has arrays of its own, and take these from it."""
    owned: dict[str, dict[str, mx.array]] = {}
    for name, value in tree_flatten(module.parameters()):
        owner, _, part = name.rpartition(".")
        owned.setdefault(owner, {})[part] = value
    layers = dict(module.named_modules())
    shapes = {name: layers.get(name) for name in owned}
    kinds = {name: None if layer is None else _Description(layer) for name, layer in shapes.items()}
    for layer in layers.values():
        for part, value in list(layer.items()):
            if isinstance(value, mx.array):
                layer[part] = mx.zeros(())
            elif isinstance(value, list) and any(isinstance(item, mx.array) for item in value):
                layer[part] = []
    for name in list(owned):
        yield name, kinds[name] or _Description(nn.Module()), owned.pop(name)


class _Description(nn.Module):  # type: ignore[misc]
    """How a layer is stored, when its arrays have gone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        scheme = models.scheme_of(layer)
        if scheme is not None:
            self.weight = self.scales = mx.zeros(())
            for key, value in scheme.items():
                setattr(self, key, value)


def _written(
    trained: Trained,
    name: str,
    layer: nn.Module,
    arrays: Mapping[str, mx.array],
    scheme: models.Scheme | None,
    rounding: Rounding,
    dtype: mx.Dtype,
) -> tuple[dict[str, mx.array], Rounding]:
    """Give the arrays of a layer that is written otherwise than the base has it."""
    own = models.scheme_of(layer)
    others = {part: value for part, value in arrays.items() if part not in PARTS}
    if scheme is None:
        return {"weight": _unquantized(trained, name, arrays, own, _dtype_of(arrays, dtype)), **others}, rounding
    parts, sums = requantized(trained, name, arrays, own, scheme, _dtype_of(arrays, dtype))
    is_counted = name in trained.layers or own is not None
    return {**parts, **others}, rounding.count(name, *sums) if is_counted else rounding


def _unquantized(
    trained: Trained, name: str, arrays: Mapping[str, mx.array], own: models.Scheme | None, dtype: mx.Dtype
) -> mx.array:
    """Give a layer's trained weights as numbers, unpacked some rows at a time."""
    found = []
    for rows in row_blocks(arrays["weight"], own):
        parts = {part: value[rows] for part, value in arrays.items() if part in PARTS}
        before = parts["weight"] if own is None else unpacked(parts, own)
        index = (rows, *(slice(None) for _ in before.shape[1:]))
        after = trained.after(f"{name}.weight", before, index).astype(dtype)
        mx.eval(after)
        found.append(after)
        del parts, before, after
        mx.clear_cache()
    return mx.concatenate(found) if len(found) > 1 else found[0]


def _dtype_of(arrays: Mapping[str, mx.array], otherwise: mx.Dtype) -> mx.Dtype:
    """Give the type that a layer computes in, or another one where it does not say."""
    stored = arrays.get("scales", arrays["weight"])
    return stored.dtype if mx.issubdtype(stored.dtype, mx.floating) else otherwise


def _main_dtype(module: nn.Module) -> mx.Dtype:
    """Give the type of most of a model's numbers that are not packed."""
    sizes = Counter[mx.Dtype]()
    for _, value in tree_flatten(module.parameters()):
        if mx.issubdtype(value.dtype, mx.floating):
            sizes[value.dtype] += value.size
    return sizes.most_common(1)[0][0] if sizes else mx.bfloat16
