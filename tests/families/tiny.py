"""A tiny random model of a family, and rows for it in its processor's format, as data.

A description is what `python -m tests.prove FAMILY` needs to prove a family without a checkpoint: a config.json
with small numbers, and rows as the family's processor would write them, one at a time. Nothing here imports
vlora.models.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from tests.checkpoints.layout import make_model, single_element
from vlora import Example

Inputs = dict[str, Any]


@attrs.frozen(kw_only=True)
class TinyFamily:
    """One family, small.

    Attributes:
        config: Its config.json, model_type included; a few thousand parameters, four attention heads at most, two
            to four layers, so that every kind of layer of the family occurs.
        rows: Makes the rows, given a seeded generator: as `Row`, or encoded already. The first has one image, the
            second has other images (more, or of another size, as far as the family can), the last has none if the
            family reads text alone.
        idle: Regular expressions over names of parameters that get no gradient although they are trained, each with
            the reason (an unused branch, the last layers of a tower whose earlier features are taken).
        prepare: Changes the model after its weights are drawn, for what random weights break; says why.
        without_text_rows: Why no row is without an image; None if one is.
        while_building: What holds while the model is made: for sizes that upstream does not read from config.json.
        loads_no_adapter: Why mlx-vlm by itself can attach no adapter to it, so that vlora has to; None if it can.
        is_packed: It is published with packed weights only, which take adapters but no gradients of their own.
    """

    config: Mapping[str, Any]
    rows: "Callable[[np.random.Generator], Sequence[Row | Example]]"
    idle: Mapping[str, str] = attrs.field(factory=dict)
    prepare: Callable[[nn.Module], None] | None = None
    without_text_rows: str | None = None
    while_building: Callable[[], AbstractContextManager[None]] = nullcontext
    loads_no_adapter: str | None = None
    is_packed: bool = False


@attrs.frozen(eq=False, kw_only=True)
class Row:
    """One row as the family's processor writes it.

    Attributes:
        tokens: Token ids, image placeholders as many as the processor writes.
        n_answer: How many tokens at the end are the answer.
        inputs: The processor's other outputs for this row alone: NumPy arrays under the processor's names, the
            leading dimension included; `pixel_values` among them. Empty without images.
        image_tokens: The ids that stand for images; they are never supervised.
    """

    tokens: Sequence[int]
    n_answer: int
    inputs: Inputs = attrs.field(factory=dict)
    image_tokens: frozenset[int] = frozenset()


def words(generator: np.random.Generator, count: int, low: int = 10, high: int = 100) -> list[int]:
    """Draw ordinary tokens."""
    drawn: list[int] = generator.integers(low, high, count).tolist()
    return drawn


def noise(generator: np.random.Generator, *shape: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Draw an image's normalised pixels."""
    return generator.standard_normal(shape, dtype=np.float32)


def build(family: TinyFamily, *, seed: int = 0) -> nn.Module:
    """Make the family's model with random float32 weights; the same call makes the same weights.

    Norms' weights lie around the value that they are made with, single-element gates are open, every other weight is
    normal with a spread that keeps activations in range; non-trainable buffers stay as they are made.
    """
    with family.while_building():
        model = make_model(family.config)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if not mx.issubdtype(value.dtype, mx.floating):
            continue
        # By name, so that a model with one part more keeps the weights of the others.
        generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
        draw = generator.standard_normal(value.shape, dtype=np.float32)
        if value.size == 1:
            weights[name] = mx.full(value.shape, single_element(name))
        elif value.ndim == 1:
            start = np.asarray(value.astype(mx.float32))
            start = np.where(np.abs(start - 1) < 1e-6, start, 0.0)  # ones stay around one, biases around zero
            weights[name] = mx.array(start + 0.1 * draw)
        else:
            fan_in = int(np.prod(value.shape[1:])) if value.ndim != 3 else value.shape[-1]
            weights[name] = mx.array(draw * np.float32(1.2 / np.sqrt(fan_in)))
    model.update(tree_unflatten(list(weights.items())))
    if family.prepare is not None:
        family.prepare(model)
    mx.eval(model.parameters())
    return model


def examples(family: TinyFamily, *, seed: int = 0) -> list[Example]:
    """Make the family's rows as the training step takes them."""
    rows = family.rows(np.random.default_rng(seed))
    return [row if isinstance(row, Example) else encode(row, f"row {number}") for number, row in enumerate(rows)]


def encode(row: Row, source: str) -> Example:
    """Make an example of what a processor wrote."""
    tokens = np.asarray(row.tokens, dtype=np.int32)
    placeholders = np.isin(tokens, sorted(row.image_tokens))
    supervised = np.zeros(len(tokens), dtype=bool)
    supervised[len(tokens) - row.n_answer :] = True
    return Example(
        source=source,
        tokens=tokens,
        supervised=supervised & ~placeholders,
        placeholders=placeholders,
        inputs=row.inputs,
    )
