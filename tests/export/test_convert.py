"""A base in mlx-vlm's own layout: what was trained is in it, and its layers are quantized as they are to be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from vlora.adapters.layers import LoRALinear
from vlora.adapters.merge import Rounding, unpacked
from vlora.export import rewrite
from vlora.export.convert import convert
from vlora.export.shards import ShardWriter
from vlora.export.trained import Trained
from vlora.models.forward.tied_head import TiedHead

PACKED = {"group_size": 32, "bits": 4, "mode": "affine"}


class Base(nn.Module):
    """Two layers, and a table that is read as the head, too."""

    def __init__(self, dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(64, 8)
        self.table = nn.Embedding(8, 64)
        for layer in (self.a, self.b, self.table):
            layer.set_dtype(dtype)


def trained(module: nn.Module, **whole: mx.array) -> Trained:
    """Say that an adapter of the layer "a" was trained, and these parameters as a whole."""
    layer = LoRALinear(nn.Linear(64, 8), 2, 1.0, 0.0, mx.random.key(1))
    layer.lora_b = mx.ones((2, 8))
    names = {name.replace("__", "."): value for name, value in whole.items()}
    files, backbone = SimpleNamespace(), SimpleNamespace(module=module)
    parts: Any = {"files": files, "backbone": backbone}
    return Trained(**parts, config={}, layers={"a": layer}, whole=names, on_loading={})


def written(found: Trained, module: nn.Module, schemes: Any, folder: Path) -> tuple[dict[str, mx.array], Rounding]:
    """Convert a base; read the files, and give what quantizing has changed."""
    writer = ShardWriter(folder, "mlx")
    rounding = convert(found, module, schemes, writer)
    (file,) = writer.close()
    return load_arrays(file), rounding


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_dense_base(dtype: mx.Dtype, tmp_path: Path) -> None:
    """The adapter is added in the layer's own type, trained parameters take the base's place, and all else stays."""
    module = Base(dtype)
    before, bias = dict(tree_flatten(module.parameters())), mx.arange(8, dtype=mx.float32)
    found = trained(module, b__bias=bias)
    arrays, rounding = written(found, module, {}, tmp_path)

    assert arrays.keys() == before.keys()
    assert {array.dtype for array in arrays.values()} == {dtype}
    assert mx.array_equal(arrays["a.weight"], found.after("a.weight", before["a.weight"]).astype(dtype))
    assert not mx.array_equal(arrays["a.weight"], before["a.weight"])
    assert mx.array_equal(arrays["b.bias"], bias)
    assert all(mx.array_equal(arrays[name], before[name]) for name in ("a.bias", "b.weight", "table.weight"))
    assert rounding == Rounding()


def test_layers_are_quantized_as_asked(tmp_path: Path) -> None:
    """With what was learned; only the layer that was trained counts as changed by quantizing."""
    module = Base()
    before = dict(tree_flatten(module.parameters()))
    found = trained(module)
    arrays, rounding = written(found, module, {"a": PACKED, "b": PACKED}, tmp_path)

    assert {name for name in arrays if name.endswith(".scales")} == {"a.scales", "b.scales"}
    for name, expected in (("a", found.after("a.weight", before["a.weight"])), ("b", before["b.weight"])):
        parts = {part: arrays[f"{name}.{part}"] for part in ("weight", "scales", "biases")}
        # By a step between two of sixteen values, at most: they are shifted so that one of them is zero.
        assert mx.all(mx.abs(unpacked(parts, PACKED) - expected) <= 1.01 * mx.repeat(mx.abs(parts["scales"]), 32, 1))
    learned = found.after("a.weight", before["a.weight"]) - before["a.weight"]
    assert mx.abs(learned).max() > mx.abs(arrays["a.scales"]).max()
    assert rounding.n_layers == 1
    assert rounding.worst is not None
    assert rounding.worst[0] == "a"


def test_a_quantized_base_becomes_dense(tmp_path: Path) -> None:
    """Where no layer is to be quantized, all are unpacked, in the type of their scales."""
    module = Base(mx.bfloat16)
    nn.quantize(module, 32, 4, class_predicate=lambda name, _: name in ("a", "b"))
    packed = {part: module.b[part] for part in ("weight", "scales", "biases")}
    arrays, rounding = written(trained(module), module, {}, tmp_path)

    assert not [name for name in arrays if name.endswith((".scales", ".biases"))]
    assert mx.array_equal(arrays["b.weight"], unpacked(packed, PACKED).astype(mx.bfloat16))
    assert arrays["a.weight"].dtype == arrays["b.weight"].dtype == mx.bfloat16
    assert rounding == Rounding()


def test_a_packed_table_is_never_whole_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unpacked as it is written, in less memory than it takes unpacked."""
    monkeypatch.setattr(rewrite, "MOST_AT_ONCE", 1 << 15)
    module = Base(mx.bfloat16)
    module.table = nn.QuantizedEmbedding(8192, 256, 64, 4)
    packed = {part: module.table[part] for part in ("weight", "scales", "biases")}
    expected, size = unpacked(packed, {**PACKED, "group_size": 64}), 8192 * 256 * packed["scales"].dtype.size
    mx.eval(module.parameters(), expected)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    found = trained(module)
    writer = ShardWriter(tmp_path, "mlx")
    convert(found, module, {}, writer)
    assert mx.get_peak_memory() - before < size / 2
    (file,) = writer.close()
    assert mx.array_equal(load_arrays(file)["table.weight"], expected.astype(packed["scales"].dtype))


def test_a_tied_head_is_the_trained_table(tmp_path: Path) -> None:
    """mlx-vlm writes the table a second time under the head's name; both are the trained one."""
    module, table = Base(), mx.ones((8, 64))
    module.head = nn.Linear(64, 8, bias=False)
    known = nn.Module()
    known.table = nn.Embedding(8, 64)
    known.head = TiedHead(known, "table")
    arrays, _ = written(trained(known, table__weight=table), module, {}, tmp_path)

    assert mx.array_equal(arrays["table.weight"], table)
    assert mx.array_equal(arrays["head.weight"], table)


def test_memory_is_let_go(tmp_path: Path) -> None:
    """A base that was converted has no weights any more."""
    module = Base()
    written(trained(module), module, {}, tmp_path)

    assert all(value.size == 1 for _, value in tree_flatten(module.parameters()))
