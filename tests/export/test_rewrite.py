"""A folder's tensors computed anew, one at a time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from vlora.adapters.layers import DoRALinear, LoRALinear
from vlora.adapters.merge import unpacked
from vlora.export import rewrite as rewriting
from vlora.export.rewrite import Rewriter, rewrite
from vlora.export.shards import ShardWriter
from vlora.export.trained import Trained
from vlora.models.published.tracing import Piece

WEIGHT = mx.random.normal((8, 6), key=mx.random.key(0))


def trained(kind: type[LoRALinear] = LoRALinear, whole: dict[str, mx.array] | None = None) -> Trained:
    """Make what was trained of a layer "a" of the shape [4, 6]."""
    layer = kind(nn.Linear(6, 4, bias=False), 2, 1.0, 0.0, mx.random.key(1))
    layer.lora_b = mx.ones((2, 4))
    nothing: Any = SimpleNamespace()
    return Trained(files=nothing, backbone=nothing, config={}, layers={"a": layer}, whole=whole or {}, on_loading={})


def half(start: int) -> tuple[Piece, ...]:
    """Say that the layer's weight is four rows of the tensor "ab"."""
    return (Piece("ab", (slice(start, start + 4), slice(0, 6)), (slice(0, 4), slice(0, 6)), (0, 1)),)


def test_a_half_of_a_tensor(tmp_path: Path) -> None:
    """Only the layer's part of a fused tensor changes; tensors that hold nothing trained are what they were."""
    found = trained()
    rewriter = Rewriter(trained=found, schemes={}, pieces={"a.weight": half(4)}, places={})
    assert rewriter.unwritable() is None
    new = rewriter.tensor("ab", WEIGHT)
    assert new is not None
    assert mx.array_equal(new[:4], WEIGHT[:4])
    assert mx.allclose(new[4:], found.after("a.weight", WEIGHT[4:]))
    assert rewriter.tensor("other", WEIGHT) is WEIGHT
    mx.save_safetensors(str(tmp_path / "old.safetensors"), {"ab": WEIGHT, "other": WEIGHT})
    (tmp_path / "new").mkdir()
    writer = ShardWriter(tmp_path / "new", "pt")
    rewrite(rewriter, [tmp_path / "old.safetensors"], writer)
    (file,) = writer.close()
    written: Any = mx.load(str(file))
    assert mx.array_equal(written["ab"], new)
    assert mx.array_equal(written["other"], WEIGHT)


def test_transposed_and_whole() -> None:
    """A parameter that lies the other way round, with something added, is laid out so again."""
    value = mx.random.normal((6, 8), key=mx.random.key(2))
    piece = Piece("n", (slice(0, 8), slice(0, 6)), (slice(0, 6), slice(0, 8)), (1, 0), 1.0)
    rewriter = Rewriter(trained=trained(whole={"n": value}), schemes={}, pieces={"n": (piece,)}, places={})
    new = rewriter.tensor("n", WEIGHT)
    assert new is not None
    assert mx.allclose(new.T + 1, value, atol=1e-6)


def test_what_cannot_be_written() -> None:
    """A parameter that no tensor holds by itself is named."""
    assert Rewriter(trained=trained(), schemes={}, pieces={}, places={}).unwritable() == "a.weight"


def test_dora_needs_whole_rows() -> None:
    """Lengths are of whole rows, so that parts of rows cannot be written one by one."""
    left, right = (
        Piece(name, (slice(0, 4), slice(0, 3)), (slice(0, 4), slice(start, start + 3)), (0, 1))
        for name, start in (("l", 0), ("r", 3))
    )
    pieces = {"a.weight": (left, right)}
    assert Rewriter(trained=trained(), schemes={}, pieces=pieces, places={}).unwritable() is None
    assert Rewriter(trained=trained(DoRALinear), schemes={}, pieces=pieces, places={}).unwritable() == "a.weight"


def test_packed_layers_are_unpacked_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many numbers as are allowed, and not as many words; the parts are those of the whole layer."""
    scheme = {"bits": 4, "group_size": 32, "mode": "affine"}
    parts = dict(zip(("weight", "scales", "biases"), mx.quantize(mx.ones((64, 128)), 32, 4), strict=True))
    found = trained(whole={"q.weight": mx.random.normal((64, 128), key=mx.random.key(3))})
    whole, _ = rewriting.requantized(rewriting.requantized_blocks(found, "q", parts, scheme, scheme, None))
    sizes: list[int] = []

    def recorded(packed: dict[str, mx.array], own: dict[str, Any]) -> mx.array:
        value = unpacked(packed, own)
        sizes.append(value.size)
        return value

    monkeypatch.setattr(rewriting, "unpacked", recorded)
    monkeypatch.setattr(rewriting, "MOST_AT_ONCE", 512)
    divided, _ = rewriting.requantized(rewriting.requantized_blocks(found, "q", parts, scheme, scheme, None))
    assert set(sizes) == {512}
    assert all(mx.array_equal(divided[part], whole[part]) for part in parts)
