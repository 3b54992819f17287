"""The records that flow: `row -> Sample -> Example -> Batch -> (TrainState, StepOutput)`.

attrs classes live outside compiled functions, NamedTuples cross into them: `mx.compile` takes trees
of arrays and NamedTuples, and rejects attrs objects.

Shape letters, everywhere in vlora: B batch rows, T tokens, N targets, S examples, V vocabulary, D width, R LoRA rank.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import attrs
import mlx.core as mx
import numpy as np
import numpy.typing as npt

Tree = Any
"""A nested dict or list of `mx.array` leaves, as `nn.Module.parameters()` returns."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@attrs.frozen
class ImageSlot:
    """The place of one image in a turn.

    Attributes:
        index: Which of `Sample.images` stands here.
    """

    index: int


@attrs.frozen
class Turn:
    """One message.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        parts: Text and images in the order in which they are read.
        thought: What the assistant thinks before it answers (`reasoning_content`); None if the row has none.
        calls: The tools that the assistant calls, each {"name": ..., "arguments": ...} with the arguments as JSON
            values; and with an "id" if the row gives one.
        learned: Whether the turn is learned; a row may mark answers that are only context.
        name: Whose turn it is: of a tool's, the tool's name; None if the row does not say.
        call_id: Which call a tool's turn answers, by the "id" of the call; None if the row does not say.
    """

    role: str
    parts: tuple[str | ImageSlot, ...]
    thought: str | None = None
    calls: tuple[Mapping[str, Any], ...] = ()
    learned: bool = True
    name: str | None = None
    call_id: str | None = None

    @property
    def text(self) -> str:
        """The turn's text, without its images."""
        return "".join(part for part in self.parts if isinstance(part, str))


@attrs.frozen
class Objects:
    """What stands for the marks of boxes in a row's texts; see `vlora.data.format.boxes`.

    Attributes:
        boxes: (x1, y1, x2, y2) or (x, y), in the order in which the marks stand.
        names: Of what is in boxes, in the order in which their marks stand.
        images: Which of `Sample.images` each box lies in.
        is_relative: They are shares of an image's sides, and not pixels of it as it is stored.
    """

    boxes: tuple[tuple[float, ...], ...]
    names: tuple[str, ...]
    images: tuple[int, ...]
    is_relative: bool = False


@attrs.frozen(eq=False)
class Sample:
    """A dataset row as a conversation: text, and images not yet opened.

    Attributes:
        source: Where it came from, as error messages name it: "train.jsonl row 17".
        turns: The conversation.
        images: Paths, URLs, bytes or PIL images, in the order in which the turns show them.
        tools: Descriptions of the tools that the assistant may call, as chat templates take them (JSON schemas).
        objects: What stands for the marks of boxes in its texts; None if such marks are text like any other.
        rejected: The same conversation with a worse answer, where two answers are compared; empty without one.
        is_wanted: Whether the answer is wanted, where rows say it; None if they do not.
    """

    source: str
    turns: tuple[Turn, ...]
    images: tuple[Any, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    objects: Objects | None = None
    rejected: tuple[Turn, ...] = ()
    is_wanted: bool | None = None


class HeldOut(Protocol):
    """Rows by their places, each read when it is asked for."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Sample:
        """Read a row."""


@attrs.frozen(kw_only=True)
class Cut:
    """What `data.max_seq_length` has left out of a row.

    Attributes:
        source: The row's, as in `Sample`.
        n_tokens: Tokens of the whole row.
        n_kept: Tokens that were kept.
        n_lost: Tokens left out that were to be learned.
    """

    source: str
    n_tokens: int
    n_kept: int
    n_lost: int

    def describe(self) -> str:
        """Name the row, and say how much was left out."""
        lost = f", {self.n_lost:,} supervised ones lost" if self.n_lost else ""
        return f"{self.source} (cut from {self.n_tokens:,} to {self.n_kept:,} tokens{lost})"


@attrs.frozen(kw_only=True)
class RowMark:
    """What a row is known by, so that a run which goes on can see whether it is still what it was.

    Attributes:
        index: Its place among the rows to train on.
        digest: Of what stands in it.
        files: (path, size, time of the last change in nanoseconds) of each file that it names.
        n_tokens: How many tokens it has become; not what it is known by.
    """

    index: int
    digest: str
    files: tuple[tuple[str, int, int], ...] = ()
    n_tokens: int = attrs.field(default=0, eq=False)


@attrs.frozen(eq=False)
class Example:
    """A row as the model's processor encodes it, with what is to be learned.

    Attributes:
        source: As in `Sample`.
        tokens: i32[T], image placeholders expanded, no padding.
        supervised: bool[T], marks targets; never a placeholder, never position 0.
        placeholders: bool[T], marks the tokens that stand for images.
        inputs: The processor's other outputs for this row alone, under the processor's own names,
            leading dimension included (`pixel_values`, `image_grid_thw`, ...).
        image_sizes: (width, height) in pixels of each image as given to the processor.
        image_keys: What each image and its preparation is known by, equal for equal pixels; empty if unknown.
        cut: What `data.max_seq_length` has left out; None if the row is whole.
        mark: What the row is known by; None for rows that are not trained on.
        columns: What an objective reads of the row: name to a number, or to f32[T], one for each token.
        group: Examples of one number belong together, such as the two answers of a pair: one microbatch has all of
            them. None if the example stands alone.
    """

    source: str
    tokens: IntArray
    supervised: BoolArray
    placeholders: BoolArray
    inputs: Mapping[str, Any] = attrs.field(factory=dict)
    image_sizes: tuple[tuple[int, int], ...] = ()
    image_keys: tuple[str, ...] = ()
    cut: Cut | None = None
    mark: RowMark | None = None
    columns: Mapping[str, float | FloatArray] = attrs.field(factory=dict)
    group: int | None = None


class Inputs(NamedTuple):
    """What the language model reads of a batch.

    Attributes:
        tokens: i32[B, T].
        differentiable: Floating-point arrays of the backbone's `embed`, name to array; gradients flow into them.
        auxiliary: Its other arrays: masks, positions.
    """

    tokens: mx.array
    differentiable: Tree
    auxiliary: Tree


class Targets(NamedTuple):
    """What a batch's tokens predict. N places at which the head runs, S examples.

    Attributes:
        positions: i32[N], flat places b T + t whose logits predict a supervised token; filled up to one of few lengths
            with places that count for nothing. The head runs at these places only.
        ids: i32[N], the tokens to be predicted there; 0 where nothing is.
        weights: f32[N], 1 for a supervised target and 0 for a filler.
        example: i32[N], which of the batch's examples each belongs to. A sum over tokens is not given it, nor the next
            three: they are empty then.
        example_weights: f32[S], 1 for an example and 0 for a filler.
        group: i32[S], which group each example belongs to (`Example.group`), counted from 0; of a filler it is 0.
        columns: What the batch's examples carry (`Example.columns`), name to f32[S], or to f32[N] where it is of each
            token.
    """

    positions: mx.array
    ids: mx.array
    weights: mx.array
    example: mx.array
    example_weights: mx.array
    group: mx.array
    columns: dict[str, mx.array]


class Batch(NamedTuple):
    """Rows padded on the right to one length, made by `collate`. Of it `targets` cross into compiled functions.

    The last token of a row predicts nothing, so that it need not be read: T is a bucket for one token less than the
    longest row has.

    Attributes:
        tokens: i32[B, T].
        valid: bool[B, T], False on padding and on filler rows.
        targets: What is predicted, and where.
        rows: The examples themselves; one per real row, or several where rows are packed. Filler rows come after them.
        segment_starts: (row, first place) of each example where rows are packed; empty where each has a row of its own.
        segment_ids: i32[B, T] where rows are packed: 1, 2, ... for the places of a row's examples, 0 for padding. A
            place sees none of another segment.
        ahead: What the backbone did ahead for it (`MlxVlmBackbone.prepare_batch`); None if nothing.
        is_stand_in: Whether it is run and not counted: a rank without a row takes part where all gather weights.
    """

    tokens: mx.array
    valid: mx.array
    targets: Targets
    rows: tuple[Example, ...]
    segment_starts: tuple[tuple[int, int], ...] = ()
    segment_ids: mx.array | None = None
    ahead: Any = None
    is_stand_in: bool = False

    @property
    def n_supervised(self) -> int:
        """Count the supervised targets, without the device."""
        return sum(int(np.count_nonzero(example.supervised[1:])) for example in self.rows)

    @property
    def n_groups(self) -> int:
        """Count the groups of examples; an example that stands alone is one."""
        return len({id(example) if example.group is None else example.group for example in self.rows})

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Say where the examples stand: (row, first place, places) of each; a packed one's last token has none."""
        length = self.tokens.shape[1]
        if not self.segment_starts:
            return [(row, 0, min(len(example.tokens), length)) for row, example in enumerate(self.rows)]
        starts = zip(self.segment_starts, self.rows, strict=True)
        return [(row, start, positions_of(example)) for (row, start), example in starts]


def positions_of(example: Example) -> int:
    """Count the places that a packed example takes: all its tokens but the last, which predicts nothing."""
    return max(1, len(example.tokens) - 1)


class TrainState(NamedTuple):
    """All that training changes; what a checkpoint holds.

    Attributes:
        params: The trainable parameters, float32.
        opt_state: The optimizer's own state.
        step: i32[], steps done; those whose loss was not finite and those without a row count too.
    """

    params: Tree
    opt_state: Tree
    step: mx.array


class StepOutput(NamedTuple):
    """What one optimizer step measured.

    Attributes:
        nll_sum: f32[], summed loss: of fine-tuning, the negative log-likelihood of the supervised targets in nats.
        n_supervised: f32[], how many supervised targets there were.
        grad_norm: f32[], global norm of the mean gradient before clipping.
        n_terms: f32[], what the sum is divided by: of fine-tuning the supervised targets, of an objective over pairs
            the pairs.
        metrics: What an objective measures beside the loss, by name: (f32[] sum, f32[] what it is divided by).
        others: f32[] each, further numbers that were given to the step, added up over its ranks.
    """

    nll_sum: mx.array
    n_supervised: mx.array
    grad_norm: mx.array
    n_terms: mx.array
    metrics: Mapping[str, tuple[mx.array, mx.array]] = MappingProxyType({})
    others: tuple[mx.array, ...] = ()
