"""A model that is checked, its rows, and what is computed with it."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ... import models
from ...data.collate import collate
from ...errors import CheckError
from ...memory.limits import device_kind
from ...recipe.schema import LoraSection, OptimSection
from ...train.optimizers import make_optimizer
from ...train.state import bound_params, init_state
from ...types import Batch, Example, FloatArray, IntArray, Sample, TrainState

PIXELS = "pixel_values"

PLACES = 16
"""Tokens of a row whose logits are compared: those of all tokens of a large vocabulary take gigabytes."""

SPREAD_OF_B = 0.05
"""Of the random numbers that fill an adapter's B, which begins as zeros: without them its A had no gradient."""

SAME_SHAPE = {"float32": 1e-5, "tf32": 1e-4, "rounded": 1e-2}
"""Root mean square of a difference, as a share of the expected numbers' spread, where arrays have the same shapes."""

OTHER_SHAPE = {"float32": 1e-4, "tf32": 1e-2, "rounded": 0.1}
"""The same where they have other shapes, for which a device takes other kernels. What is wrong in a mask changes
logits by 0.5 and more."""


@attrs.frozen
class LeftOut:
    """Why a check says nothing of a model.

    Attributes:
        reason: The reason, as half a sentence.
    """

    reason: str


@attrs.define(eq=False, kw_only=True)
class Subject:
    """A model made trainable, and short rows for it.

    Attributes:
        backbone: The model.
        config: Its adapter's configuration; after full fine-tuning only its type.
        lora: The recipe's section.
        quantized: How the base was quantized when it was loaded; empty if it was not.
        examples: Its rows, encoded; the first has an image.
        samples: The same as conversations; empty where there is no encoder.
        encoder: Encodes its rows; None of a model that has no processor.
        params: The trained parameters that are bound where something is computed.
    """

    backbone: models.MlxVlmBackbone
    config: dict[str, Any]
    lora: LoraSection = attrs.field(factory=LoraSection)
    quantized: Mapping[str, Any] = attrs.field(factory=dict)
    examples: list[Example] = attrs.field(factory=list)
    samples: list[Sample] = attrs.field(factory=list)
    encoder: models.Encoder | None = None
    params: dict[str, mx.array] = attrs.field(factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether the whole language model is trained, and no adapter."""
        return self.config.get("fine_tune_type") == "full"

    @functools.cached_property
    def precision(self) -> str:
        """What the model computes in: "float32", "tf32" (float32 on GPUs), or "rounded" to fewer bits."""
        types = {value.dtype for _, value in tree_flatten(self.backbone.module.parameters())}
        if {mx.bfloat16, mx.float16} & types or mx.uint32 in types:
            return "rounded"
        return "float32" if device_kind() == "cpu" else "tf32"

    def begin(self) -> None:
        """Give the trained parameters their first values, an adapter's B random ones."""
        state = init_state(self.backbone, make_optimizer(PLAIN))
        self.params = {name: _fill(name, value) for name, value in state.params.items()}
        mx.eval(self.params)

    def state(self) -> TrainState:
        """Make a training state of plain gradient descent."""
        return init_state(self.backbone, make_optimizer(PLAIN))._replace(params=self.params)

    def logits(self, batch: Batch, places: IntArray, *, joined: bool = False) -> FloatArray:
        """Compute logits at flat places of a batch, f32[N, V]; of padded rows, or of joined ones as a step does."""
        backbone = self.backbone
        embed = backbone.embed if joined or batch.segment_ids is not None else backbone.embed_rows
        with bound_params(backbone.module, self.params), backbone.overrides():
            found = backbone.logits(batch.tokens, *embed(batch), mx.array(places.astype(np.int32)))
            return np.array(found.astype(mx.float32))

    def row_logits(self, batch: Batch, rows: Sequence[int], *, joined: bool = False) -> list[FloatArray]:
        """Compute the logits of some of a batch's examples, at the same places of each whatever the batch."""
        spans, length = batch.spans, batch.tokens.shape[1]
        places = [probed(batch.rows[row]) + spans[row][0] * length + spans[row][1] for row in rows]
        found = self.logits(batch, np.concatenate(places), joined=joined)
        return np.split(found, np.cumsum([len(own) for own in places])[:-1])

    def alone(self, example: Example) -> FloatArray:
        """Compute the logits of one row in a batch of its own."""
        return self.row_logits(collate([example]), [0])[0]


PLAIN = OptimSection(name="sgd", betas=(0.0, 0.0))
"""An optimizer that keeps nothing: no step is taken."""


def probed(example: Example) -> IntArray:
    """Choose tokens of a row: evenly spaced ones, and the first and the last that the model reads."""
    last = max(0, len(example.tokens) - 2)
    return np.unique(np.linspace(0, last, PLACES).astype(np.int32))


def changed_pixels(pixels: Any) -> Any:
    """Give other pixels of the same shapes and types."""
    if isinstance(pixels, list):
        return [changed_pixels(part) for part in pixels]
    flipped = np.flip(np.asarray(pixels), axis=-1)
    return flipped + np.asarray(0.5, dtype=flipped.dtype) if flipped.dtype.kind == "f" else flipped


def changed(example: Example) -> Example:
    """Give another row of the same shapes: its text backwards but for the last token, its pixels mirrored."""
    tokens, inputs = example.tokens.copy(), dict(example.inputs)
    words = np.flatnonzero(~example.placeholders)[:-1]
    tokens[words] = tokens[words[::-1]]
    if PIXELS in inputs:
        inputs[PIXELS] = changed_pixels(inputs[PIXELS])
    return attrs.evolve(example, tokens=tokens, inputs=inputs)


def share_of(found: FloatArray, expected: FloatArray) -> float:
    """Find the root mean square of a difference, as a share of the expected numbers' spread; not a number if any is."""
    spread = float(np.std(expected))
    return float(np.sqrt(np.mean(np.square(found - expected)))) / max(spread, 1e-6)


def bounded(share: float, most: float, problem: str) -> float:
    """Give a share that is not too large.

    Raises:
        CheckError: It is too large, or not a number.
    """
    if not share <= most:
        found = (
            "are not finite" if np.isnan(share) else f"change by {share:.1e} of their spread ({most:.0e} is rounding)"
        )
        msg = problem.format(found=found)
        raise CheckError(msg)
    return share


def _fill(name: str, value: mx.array) -> mx.array:
    if not name.endswith("lora_b"):
        return value
    key = mx.random.key(zlib.crc32(name.encode()))
    # An adapter that was loaded has a B.
    return mx.where(mx.any(value != 0), value, SPREAD_OF_B * mx.random.normal(value.shape, key=key))
