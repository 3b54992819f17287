"""A base written in mlx-vlm's own layout, with what was trained in it, its layers quantized as they are to be."""

from collections import Counter
from collections.abc import Iterator, Mapping

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import models
from ..adapters.merge import Rounding, unpacked
from .rewrite import PARTS, joined, requantized_blocks, row_blocks
from .shards import Rows, ShardWriter
from .trained import Trained


def convert(trained: Trained, module: nn.Module, schemes: Mapping[str, models.Scheme], writer: ShardWriter) -> Rounding:
    """Write a model's parameters, a layer at a time; each is let go when it is written.

    Args:
        trained: What was trained.
        module: The base, its weights only promised; it has none afterwards.
        schemes: Layers that are to be quantized, and how.
        writer: Takes the arrays.

    Returns:
        What quantizing has changed.
    """
    conversion = _Conversion(trained, schemes, _main_dtype(module))
    tied = models.tied_heads(trained.backbone.module)
    layers = _take_apart(module)
    writer.expect(_join(name, part) for name, layer in layers.items() for part in {*layer.arrays, *PARTS})
    for name in list(layers):
        # mlx-vlm's own conversion writes a head that is the embeddings' table once more.
        for part, array in conversion.after(tied.get(name, name), layers.pop(name)):
            whole = trained.trained_whole(f"{name}.{part}") if part not in PARTS else None
            writer.add(_join(name, part), array if whole is None else whole.astype(array.dtype))
            # MLX would keep what was read and computed for the next ones.
            del array
            mx.clear_cache()
    return conversion.rounding


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


@attrs.frozen(eq=False)
class _Layer:
    """A module of the base: its arrays, and how it is quantized."""

    arrays: dict[str, mx.array]
    scheme: models.Scheme | None


@attrs.define(eq=False)
class _Conversion:
    """What becomes of layers.

    Attributes:
        trained: What was trained.
        schemes: Layers that are to be quantized, and how.
        dtype: The type of layers that do not say theirs.
        rounding: What quantizing has changed so far.
    """

    trained: Trained
    schemes: Mapping[str, models.Scheme]
    dtype: mx.Dtype
    rounding: Rounding = attrs.field(factory=Rounding)

    def after(self, name: str, layer: _Layer) -> Iterator[tuple[str, mx.array | Rows]]:
        """Yield the arrays of a layer as they are to be written; `Rows` are read before the next one is asked for."""
        arrays, scheme = layer.arrays, self.schemes.get(name)
        others = {part: value for part, value in arrays.items() if part not in PARTS}
        if "weight" not in arrays:
            yield from arrays.items()
            return
        stored = arrays.get("scales", arrays["weight"])
        dtype = stored.dtype if mx.issubdtype(stored.dtype, mx.floating) else self.dtype
        table = self.trained.trained_whole(f"{name}.weight")
        if table is not None and name not in self.trained.layers and name not in self.schemes:
            yield from others.items()
            yield "weight", table.astype(dtype)
        elif scheme == layer.scheme and not self.trained.changes(f"{name}.weight"):
            yield from arrays.items()
        else:
            yield from self._packed(name, layer, scheme, dtype) if scheme else self._unpacked(name, layer, dtype)
            yield from others.items()

    def _packed(
        self, name: str, layer: _Layer, scheme: models.Scheme, dtype: mx.Dtype
    ) -> Iterator[tuple[str, mx.array | Rows]]:
        """Quantize a layer's trained weights as they are written; what else it has then is smaller."""
        *outer, width = _shape(layer)
        others: dict[str, list[mx.array]] = {}
        sums = [0.0, 0.0, 0.0]

        def blocks() -> Iterator[mx.array]:
            for parts, more in requantized_blocks(self.trained, name, layer.arrays, layer.scheme, scheme, dtype):
                sums[:] = [sum(pair) for pair in zip(sums, more, strict=True)]
                yield parts.pop("weight")
                for part, value in parts.items():
                    others.setdefault(part, []).append(value)

        yield "weight", Rows(mx.uint32, (*outer, width * int(scheme["bits"]) // 32), blocks())
        if name in self.trained.layers or layer.scheme is not None:
            self.rounding = self.rounding.count(name, sums[0], sums[1], sums[2])
        for part, values in others.items():
            yield part, joined(values)

    def _unpacked(self, name: str, layer: _Layer, dtype: mx.Dtype) -> Iterator[tuple[str, Rows]]:
        """Unpack a layer's trained weights as they are written."""
        own = layer.scheme

        def blocks() -> Iterator[mx.array]:
            for rows in row_blocks(layer.arrays["weight"], own):
                parts = {part: value[rows] for part, value in layer.arrays.items() if part in PARTS}
                before = parts["weight"] if own is None else unpacked(parts, own)
                index = (rows, *(slice(None) for _ in before.shape[1:]))
                yield self.trained.after(f"{name}.weight", before, index).astype(dtype)
                del parts, before
                mx.clear_cache()

        yield "weight", Rows(dtype, _shape(layer), blocks())


def _shape(layer: _Layer) -> tuple[int, ...]:
    """Give the shape of a layer's weights as numbers."""
    *outer, width = layer.arrays["weight"].shape
    return (*outer, width if layer.scheme is None else width * 32 // int(layer.scheme["bits"]))


def _take_apart(module: nn.Module) -> dict[str, _Layer]:
    """Take their arrays from all modules, and give these by the modules' names."""
    owned: dict[str, dict[str, mx.array]] = {}
    for name, value in tree_flatten(module.parameters()):
        owner, _, part = name.rpartition(".")
        owned.setdefault(owner, {})[part] = value
    layers = dict(module.named_modules())
    schemes = {name: models.scheme_of(layers[name]) if name in layers else None for name in owned}
    for layer in layers.values():
        for part, value in list(layer.items()):
            if isinstance(value, mx.array):
                layer[part] = mx.zeros(())
            elif isinstance(value, list) and any(isinstance(item, mx.array) for item in value):
                layer[part] = []
    return {name: _Layer(arrays, schemes[name]) for name, arrays in owned.items()}


def _main_dtype(module: nn.Module) -> mx.Dtype:
    """Give the type of most of a model's numbers that are not packed."""
    sizes = Counter[mx.Dtype]()
    for _, value in tree_flatten(module.parameters()):
        if mx.issubdtype(value.dtype, mx.floating):
            sizes[value.dtype] += value.size
    return sizes.most_common(1)[0][0] if sizes else mx.bfloat16
