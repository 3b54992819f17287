"""Where parameters lie in published tensors is read off the renaming code, whatever it does with them."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
import pytest

from vlora.models.published.tracing import trace

SHAPES = {
    "qkv": (8, 5),
    "expert.0": (3, 4),
    "expert.1": (3, 4),
    "expert.2": (3, 4),
    "conv": (4, 3, 2, 2),
    "norm": (6,),
    "column": (2, 1),
    "interleaved": (2, 8, 3),
    "negated": (4,),
    "scaled": (4, 2),
    "scalar": (),
}


def rename(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Do what families do: split, transpose, take every other row, stack, add 1, compute."""
    queries, keys, values = mx.split(weights["qkv"], [4, 6])
    return {
        "queries": queries,
        "keys": keys,
        "values": values,
        "experts": mx.stack([weights[f"expert.{number}"] for number in range(3)]),
        "conv": weights["conv"].transpose(0, 2, 3, 1),
        "norm": weights["norm"] + 1,
        "column": weights["column"],
        "gate": weights["interleaved"][:, ::2].swapaxes(1, 2),
        "up": weights["interleaved"][:, 1::2],
        "joined": mx.concatenate([weights["expert.1"], mx.repeat(weights["column"].T, 2, axis=1)]),
        "negated": -weights["negated"],
        "scaled": weights["scaled"] * 2,
        "scalar": weights["scalar"],
    }


def test_pieces_say_what_a_parameter_consists_of() -> None:
    """What the pieces read is what the code makes, and what they write is what was published."""
    generator = np.random.default_rng(0)
    weights = {name: mx.array(generator.standard_normal(shape, dtype=np.float32)) for name, shape in SHAPES.items()}
    made, pieces = rename(weights), trace(rename, SHAPES)
    assert set(pieces) == set(made) - {"negated", "scaled", "joined"}
    for parameter, parts in pieces.items():
        covered = np.zeros(made[parameter].shape, dtype=int)
        for piece in parts:
            covered[piece.target] += 1
            read = np.array(piece.read(weights[piece.name])) + piece.offset
            np.testing.assert_array_equal(read, np.array(made[parameter][piece.target]))
            written = np.array(piece.write(made[parameter])) - piece.offset
            np.testing.assert_allclose(written, np.array(weights[piece.name][piece.source]), atol=1e-6)
        assert (covered == 1).all(), parameter


def test_a_piece_says_which_rows_it_is_and_whether_it_is_turned() -> None:
    """Rows of a joint tensor, every other row, a transposed matrix: each is told."""
    pieces = trace(rename, SHAPES)
    (keys,), (gate,), (norm,) = pieces["keys"], pieces["gate"], pieces["norm"]
    assert (keys.name, keys.source, keys.order) == ("qkv", (slice(4, 6), slice(0, 5)), (0, 1))
    assert gate.source[1] == slice(0, 7, 2)
    assert gate.order == (0, 2, 1)
    assert norm.offset == pytest.approx(1)
    assert [piece.name for piece in pieces["experts"]] == ["expert.0", "expert.1", "expert.2"]
