"""Floating-point operations that a step cannot do without: the numerator of MFU. Pure.

Counted are matrix products, two operations per multiplication and addition:

* the language model's layers: forward, and backward to their inputs. Frozen weights get no gradient of their own, so
  that a weight costs 4 operations per token instead of 6; nothing flows back to the inputs of the first layer's
  queries, keys and values, which nothing trained lies behind;
* its attention: scores and weighted values of the causal half, forward and twice that backward;
* the adapters: forward, backward to their inputs and to their factors;
* the head and its backward to the hidden states, at supervised places only;
* the vision tower with its mergers, forward only, where it runs.

Not counted: what is computed twice (checkpointing), the head at other places, embeddings, norms, rotations, softmax,
the optimizer. A side that does more than it has to gets no credit for it.
"""

import attrs

from .shapes import MERGE, PATCH_VALUES, Shape, Work


@attrs.frozen(kw_only=True)
class Operations:
    """A step's operations by part.

    Attributes:
        layers: Frozen layers of the language model.
        attention: Of the language model.
        adapters: All of them.
        head: At supervised places.
        tower: The vision tower; 0 where its features are kept.
    """

    layers: float
    attention: float
    adapters: float
    head: float
    tower: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.adapters + self.head + self.tower


def count_operations(shape: Shape, work: Work, *, rank: int, with_tower: bool) -> Operations:
    """Count the operations of one step over one batch.

    Args:
        shape: The model.
        work: The batch.
        rank: R of the adapters on all linear layers of the language model.
        with_tower: Whether the tower runs.
    """
    linears = shape.linears()
    weights = sum(inputs * outputs for inputs, outputs in linears.values())
    widths = sum(inputs + outputs for inputs, outputs in linears.values())
    first = [linears[name] for name in ("q_proj", "k_proj", "v_proj")]
    tokens = work.rows * work.n_read
    layers = 4 * shape.layers * weights - 2 * sum(inputs * outputs for inputs, outputs in first)
    # 2 R (inputs + outputs) each: forward, backward to the factors, backward to what enters them.
    adapters = 6 * rank * shape.layers * widths - 2 * rank * sum(inputs for inputs, _ in first)
    pairs = work.n_read * (work.n_read + 1) / 2
    attention = 3 * 4 * shape.layers * shape.heads * shape.head_width * pairs
    return Operations(
        layers=float(tokens * layers),
        attention=work.rows * attention,
        adapters=float(tokens * adapters),
        head=float(4 * work.rows * work.answer * shape.width * shape.words),
        tower=float(work.rows * _tower_operations(shape, work.n_patches)) if with_tower else 0.0,
    )


def _tower_operations(shape: Shape, patches: int) -> int:
    """Count the tower's forward over one image."""
    width = shape.tower_width
    layer = 4 * width**2 + 2 * width * shape.tower_hidden
    mixing = 2 * width * patches
    merged = width * MERGE**2
    merger = merged * merged + merged * shape.width
    products = PATCH_VALUES * width + shape.tower_layers * (layer + mixing)
    return 2 * (patches * products + patches // MERGE**2 * (1 + len(shape.deepstack)) * merger)
