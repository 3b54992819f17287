"""Layers of transformers become one of the model: the update of each part is that of its own layer."""

from typing import Any

import numpy as np
import pytest

from vlora.errors import CheckpointError
from vlora.models.published.links import Link
from vlora.models.published.peft_joining import Layer, join_layers

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return GENERATOR.standard_normal(shape, dtype=np.float32)


def place(rows: slice, columns: slice) -> Link:
    return Link("x.weight", (rows, columns), "y.weight", (rows, columns), (0, 1), (6, 10))


BY_OUTPUTS = [place(slice(start, start + 3), slice(0, 10)) for start in (0, 3)]
BY_INPUTS = [place(slice(0, 6), slice(start, start + 5)) for start in (0, 5)]


@pytest.mark.parametrize("links", [BY_OUTPUTS, BY_INPUTS])
def test_parts_lie_side_by_side(links: list[Link]) -> None:
    """Ranks add up, whether the parts have different outputs or read different inputs."""
    rows, columns = (part.stop - part.start for part in links[0].own_box)
    layers = [Layer(normal(2, columns), normal(rows, 2), 1.5) for _ in links]
    joined = join_layers("x", list(zip(links, layers, strict=True)), 2, "file")
    update = joined.b @ joined.a
    assert (joined.a.shape, joined.b.shape, joined.scale) == ((4, 10), (6, 4), 1.5)
    for link, layer in zip(links, layers, strict=True):
        np.testing.assert_allclose(update[link.own_box], layer.b @ layer.a, rtol=1e-5, atol=1e-6)


def test_a_factor_that_parts_share_is_not_repeated() -> None:
    """Different outputs may share A, and different inputs B: the rank stays."""
    shared = normal(2, 10), normal(6, 2)
    outputs = [(link, Layer(shared[0], normal(3, 2), 1.0)) for link in BY_OUTPUTS]
    inputs = [(link, Layer(normal(2, 5), shared[1], 1.0)) for link in BY_INPUTS]
    np.testing.assert_array_equal(join_layers("x", outputs, 2, "file").a, shared[0])
    joined = join_layers("x", inputs, 2, "file")
    np.testing.assert_array_equal(joined.b, shared[1])
    np.testing.assert_array_equal(joined.a, np.concatenate([layer.a for _, layer in inputs], axis=1))


def test_parts_that_do_not_make_a_layer_are_named() -> None:
    """A part that lacks, and several scales, are errors that name the file and the layer."""
    layers = [Layer(normal(2, 10), normal(3, 2), scale) for scale in (1.0, 2.0)]
    parts = list(zip(BY_OUTPUTS, layers, strict=True))
    with pytest.raises(CheckpointError, match="file: adapts only a part of x, which is 2 layers"):
        join_layers("x", parts[1:], 2, "file")
    with pytest.raises(CheckpointError, match="file: adapts x in parts of several scales"):
        join_layers("x", parts, 2, "file")
