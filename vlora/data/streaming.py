"""The steps of a run whose rows are streamed, from one source or several: what each reads, and where a run goes on.

Of several ranks each finds all rows, in the same order, and reads its own ones only. So every row is learned once an
epoch by one of them, and a step has the rows that it has on one rank with as many times the batch. Where a row has to
be read to be found (Parquet, the hub), every rank reads all of them and keeps its own.

Of a mixture each source is a stream with an order, a buffer and epochs of its own; `vlora.data.turns` mixes them.

Where rows are grouped by length they are drawn in windows, each of them sorted and cut into batches. A run that goes on
within a window draws it again.
"""

import itertools
import json
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from ..errors import CheckpointError
from ..recipe.schema import Recipe
from .batch_source import EndedEpoch
from .drawn_rows import DrawnRows
from .linking import LinkedRow, StepRows, link_rows
from .sampler import WINDOW_BATCHES, LengthFn, group_by_length, share_steps
from .stream_cursor import ProgressNote, StreamCursor, StreamProgress
from .stream_starts import make_cursors, make_turns, parse_progress
from .turns import TurnTaking, take_turns

REMEMBERED = 128
"""Steps whose progress is known, besides those that may have been planned ahead."""

_GROUPS = 4
"""Keeps the draws of batches apart from others of the same seed."""


@attrs.frozen(kw_only=True)
class _Window:
    """Rows that were drawn together, in batches.

    Attributes:
        before: How far each source was read before.
        after: And behind them.
        batches: Their numbers, microbatch by microbatch.
        ended: Epochs that have ended with them.
        is_over: Whether a single stream's epoch has.
    """

    before: tuple[ProgressNote, ...]
    after: tuple[ProgressNote, ...]
    batches: Sequence[Sequence[int]]
    ended: tuple[EndedEpoch, ...]
    is_over: bool


@attrs.frozen(kw_only=True)
class _Planned:
    """What is known of a step that was planned."""

    notes: tuple[ProgressNote, ...]
    n_batches: int
    indices: Sequence[int]
    ended: tuple[EndedEpoch, ...]


@attrs.define(eq=False, kw_only=True)
class StreamSteps:
    """Plans the steps of a run whose rows are streamed.

    Attributes:
        drawn: Where rows that were planned are read.
        cursors: Draw the rows of each source.
        turns: From which source each row comes; None of a single one.
        measure: Says how long drawn rows are, where they are grouped by length; None where they are not.
        seed: The run's.
        batch_size: Rows of a microbatch, those of all ranks together.
        accumulation: Microbatches of a step.
        n_steps: Steps of the whole run.
        n_ahead: Rows that are read ahead of the step in hand at most.
        first_step: Steps done before.
        n_done: Microbatches of the first window that they have used.
        rank: Whose rows; from 0.
        n_ranks: Ranks among which rows are shared out.
        own_batch_size: Rows of a microbatch of one rank.
        is_linked: Whether rows are joined to the one before them in the microbatch of all ranks.
        is_even: Whether all ranks have as many microbatches, some of them empty.
    """

    drawn: DrawnRows
    cursors: Sequence[StreamCursor]
    turns: TurnTaking | None = None
    measure: LengthFn | None = None
    seed: int = 0
    batch_size: int
    accumulation: int
    n_steps: int
    n_ahead: int
    first_step: int = 0
    n_done: int = 0
    rank: int = 0
    n_ranks: int = 1
    own_batch_size: int
    is_linked: bool = False
    is_even: bool = False
    _planned: dict[int, _Planned] = attrs.field(factory=dict, init=False)
    _lengths: Iterator[int] | None = attrs.field(default=None, init=False)
    _known: list[int] = attrs.field(factory=list, init=False)

    def steps(self) -> Iterator[StepRows]:
        """Yield each step's microbatches, epoch after epoch, as long as there are steps.

        The microbatches left at the end of a single stream's epoch make a shorter step; none crosses epochs. The steps
        of a mixture are all whole.

        Yields:
            Numbers by which this rank's rows are read, or where rows are joined a `LinkedRow` of each.

        Raises:
            RecipeError: An epoch has no row.
        """
        windows, n_used, left = self._windows(), self.n_done, 0
        for step in range(self.first_step + 1, self.n_steps + 1):
            batches: list[Sequence[int]] = []
            ended: list[EndedEpoch] = []
            while len(batches) < self.accumulation:
                if not left:
                    window = next(windows)
                    self.drawn.drop(index for batch in window.batches[:n_used] for index in batch)
                    left = len(window.batches) - n_used
                batches.append(window.batches[n_used])
                self._measure_ahead()
                n_used, left = n_used + 1, left - 1
                if not left:
                    n_used = 0
                    ended += window.ended
                    if window.is_over:
                        break
            notes = window.before if left else window.after
            yield self._share(step, batches, _Planned(notes=notes, n_batches=n_used, indices=(), ended=tuple(ended)))

    def progress_at(self, step: int) -> list[StreamProgress]:
        """Return how far each source was read before the rows of a step's window that are left.

        The step was yielded by `steps`, not too long ago.
        """
        if step == self.first_step:
            return [cursor.start for cursor in self.cursors]
        return [note.find() for note in self._planned[step].notes]

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Return the epochs that have ended with a step that `steps` has yielded, not too long ago."""
        return self._planned[step].ended

    def dumps(self, step: int) -> str:
        """Write how far the sources were read after a step as JSON."""
        pairs = zip(self.cursors, self.progress_at(step), strict=True)
        found = [progress.dump(cursor.stream) for cursor, progress in pairs]
        n_batches = self.n_done if step == self.first_step else self._planned[step].n_batches
        told: dict[str, Any] = found[0] if self.turns is None else {"sources": found}
        return json.dumps(told | ({"n_batches": n_batches} if n_batches else {}), separators=(",", ":"))

    def _windows(self) -> Iterator[_Window]:
        """Draw windows; of the next one rows are measured while the batches of this one are taken."""
        n_given = sum(cursor.start.n_given for cursor in self.cursors)
        sources = take_turns(self.turns, self.cursors)
        if self.measure is None:
            while True:
                window = self._draw(sources, n_given, self.batch_size)
                n_given += len(window.batches[0])
                yield window
        size = WINDOW_BATCHES * self.batch_size
        ahead = self._draw(sources, n_given, size)
        while True:
            window, (rows,) = ahead, ahead.batches
            lengths = [*self._known, *(self._lengths or self.measure(rows))]
            grouped = group_by_length(rows, lengths, self.batch_size, (self.seed, _GROUPS, n_given))
            n_given += len(rows)
            ahead = self._draw(sources, n_given, size)
            self._lengths, self._known = iter(self.measure(ahead.batches[0])), []
            yield attrs.evolve(window, batches=grouped)

    def _measure_ahead(self) -> None:
        """Measure as many rows of the next window as a microbatch takes of this one."""
        if self._lengths is not None:
            self._known.extend(itertools.islice(self._lengths, self.batch_size))

    def _draw(self, sources: Iterator[int], first: int, most: int) -> _Window:
        """Draw rows and number them, no more than are left of a single stream's epoch."""
        before = tuple(cursor.note() for cursor in self.cursors)
        ended: list[EndedEpoch] = []
        is_over, index = False, first
        while index < first + most and not is_over:
            source = next(sources)
            row, n_rows = self.cursors[source].take()
            self.drawn.put(index, source, row, n_reads=1 if self.measure is None else 2)
            index += 1
            if n_rows:
                number = None if self.turns is None else source
                ended.append(EndedEpoch(epoch=self.cursors[source].epoch, n_rows=n_rows, source=number))
                is_over = self.turns is None
        after = tuple(cursor.note() for cursor in self.cursors)
        return _Window(before=before, after=after, batches=[range(first, index)], ended=tuple(ended), is_over=is_over)

    def _share(self, step: int, batches: Sequence[Sequence[int]], planned: _Planned) -> StepRows:
        """Choose this rank's rows of a step, give up those that it does not read, and remember the step."""
        steps: Iterable[Sequence[Sequence[int | LinkedRow]]] = link_rows([batches]) if self.is_linked else [batches]
        (own,) = share_steps(steps, self.rank, self.n_ranks, self.own_batch_size, is_even=self.is_even)
        given = {operator.index(row) for batch in own for row in batch} | self._keep_others(own)
        self.drawn.drop(index for batch in batches for index in batch if index not in given)
        self._planned[step] = attrs.evolve(planned, indices=tuple(given))
        # A step has one row at least, so that no more steps than rows are planned ahead.
        old = self._planned.pop(step - REMEMBERED - self.n_ahead, None)
        self.drawn.drop(() if old is None else old.indices)
        return own

    def _keep_others(self, own: StepRows) -> set[int]:
        """Keep the rows to which this rank's are joined: of each the one before it, the others by their places only."""
        linked = [row for batch in own for row in batch if isinstance(row, LinkedRow)]
        n_reads = Counter([*(row.index for row in linked), *(row.before[0] for row in linked if row.before)])
        others = {index for row in linked for index in row.before}
        for index in others:
            self.drawn.expect(index, n_reads[index])
        return others


def stream_steps(
    recipe: Recipe,
    drawn: DrawnRows,
    first_step: int,
    position: str,
    *,
    n_planned: int,
    rank: int,
    n_ranks: int,
    measure: LengthFn | None = None,
    is_joined: bool = False,
    is_even: bool = False,
) -> StreamSteps:
    """Plan the steps of a recipe that streams its rows.

    Args:
        recipe: The recipe.
        drawn: Where rows that were planned are read.
        first_step: Steps done before.
        position: What the training state remembers of them (`BatchSource.position`).
        n_planned: Ranks for which the steps are planned; a microbatch has `train.batch_size` rows for each.
        rank: Whose rows; from 0.
        n_ranks: Ranks among which rows are shared out.
        measure: Says how long drawn rows are, where they are grouped by length.
        is_joined: Whether a loss joins the rows of a microbatch, so that a rank's of one stay one.
        is_even: See `StreamSteps`.

    Raises:
        CheckpointError: The files are not those of the steps that were done.
    """
    train, data = recipe.train, recipe.data
    starts, n_done = load_progress(position, drawn, allows_changes=data.allow_changed_rows)
    return StreamSteps(
        drawn=drawn,
        cursors=make_cursors(recipe, drawn, starts),
        turns=make_turns(recipe, drawn),
        batch_size=train.batch_size * n_planned,
        own_batch_size=-(-train.batch_size * n_planned // n_ranks) if is_joined else train.batch_size,
        is_linked=is_joined and n_ranks > 1,
        is_even=is_even,
        accumulation=train.gradient_accumulation_steps,
        n_steps=train.iters,
        n_ahead=max(data.prefetch, train.gradient_accumulation_steps) * train.batch_size * n_ranks,
        first_step=first_step,
        n_done=n_done,
        measure=measure,
        seed=train.seed,
        rank=rank,
        n_ranks=n_ranks,
    )


def load_progress(position: str, drawn: DrawnRows, *, allows_changes: bool) -> tuple[list[StreamProgress], int]:
    """Read what `StreamSteps.dumps` wrote: for each source, and how many microbatches of a window were used.

    Args:
        position: What it wrote; "" of a run that begins.
        drawn: The sources.
        allows_changes: Whether files from which rows wait may have changed.

    Raises:
        CheckpointError: It is something else, or the files are not those of then.
    """
    if not position:
        return [StreamProgress() for _ in drawn.streams], 0
    try:
        found = json.loads(position)
        each = list(found["sources"]) if drawn.is_mixture else [found]
        return parse_progress(each, drawn, allows_changes=allows_changes), int(found.get("n_batches", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        msg = (
            f"the training state says of its stream {position[:200]!r}, which is not understood; begin anew without "
            "--resume"
        )
        raise CheckpointError(msg) from None
