"""Packed rows of streams: the rows at hand are packed as in `vlora.data.packing`, and more are drawn when they are due.

What a run has to remember is how far its streams were read, and the places of the rows that wait to be learned. Where
a loss joins rows to others (`vlora.data.linking`), the others are the ones drawn before them, and remembered with them.
"""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from ..errors import CheckpointError
from ..recipe.schema import Recipe
from ..types import Batch, Example
from .batch_source import EndedEpoch
from .drawn_rows import DrawnRow, DrawnRows
from .linking import N_DRAWN
from .pack_plan import Item, Pack, collate_steps
from .packing import LOOKAHEAD, first_fit_decreasing
from .pairing import needs_mismatched
from .readers.stream import Place
from .stream_cursor import ProgressNote, StreamCursor, StreamProgress
from .stream_starts import make_cursors, make_turns, parse_progress
from .streaming import REMEMBERED
from .turns import TurnTaking, take_turns


@attrs.frozen(kw_only=True)
class PackedStreamProgress:
    """The progress of a run after a step.

    Attributes:
        cursors: Draw the rows of each source.
        streams: How far each of them was read.
        waiting: Rows that wait to be learned, in the order in which they were drawn.
        is_over: Whether no more are drawn before these are learned: they end the epoch of a single stream.
        before: Rows that do not wait and to which these, or the next ones, may be joined.
    """

    cursors: Sequence[StreamCursor]
    streams: Sequence[StreamProgress]
    waiting: Sequence[DrawnRow]
    is_over: bool
    before: Sequence[DrawnRow] = ()

    def dumps(self) -> str:
        """Write it as JSON."""
        pairs = zip(self.cursors, self.streams, strict=True)
        found = {
            "sources": [progress.dump(cursor.stream) for cursor, progress in pairs],
            "waiting": [[row.index, row.source, *row.place] for row in self.waiting],
            "is_over": self.is_over,
        }
        if self.before:
            found["before"] = [[row.index, row.source, *row.place] for row in self.before]
        return json.dumps(found, separators=(",", ":"))


@attrs.frozen(kw_only=True)
class _Drawn:
    """What is known of a row that was drawn, behind it."""

    row: DrawnRow
    notes: tuple[ProgressNote, ...]
    ended: EndedEpoch | None


@attrs.frozen(kw_only=True)
class _Planned:
    """What is known of a step that was planned."""

    notes: tuple[ProgressNote, ...]
    waiting: tuple[DrawnRow, ...]
    before: tuple[DrawnRow, ...]
    is_over: bool
    learned: tuple[int, ...]
    ended: tuple[EndedEpoch, ...]


@attrs.define(eq=False, kw_only=True)
class PackedStreamSteps:
    """The steps of a run whose rows are streamed and packed; see `vlora.data.packing.PackedSteps`.

    Attributes:
        drawn: Where rows that were drawn are read.
        cursors: Draw the rows of each source.
        turns: From which source each row comes; None of a single one.
        capacity: Places of a pack.
        batch_size: Packs of a microbatch.
        accumulation: Microbatches of a step.
        n_steps: Steps of the run.
        n_ahead: Rows that are read ahead of the step in hand at most.
        n_reads: How often each row is read: to be measured and to be encoded, or both at once.
        rank: Whose rows are read behind that; from 0.
        n_ranks: Ranks among which packs are shared out.
        first_step: Steps done before.
        waiting: Rows that waited then.
        is_over: As in `PackedStreamProgress`.
        before: As there.
    """

    drawn: DrawnRows
    cursors: Sequence[StreamCursor]
    turns: TurnTaking | None = None
    capacity: int
    batch_size: int
    accumulation: int
    n_steps: int
    n_ahead: int
    n_reads: int = 1
    rank: int = 0
    n_ranks: int = 1
    first_step: int = 0
    waiting: Sequence[DrawnRow] = ()
    is_over: bool = False
    before: Sequence[DrawnRow] = ()
    _behind: deque[_Drawn] = attrs.field(factory=deque, init=False)
    _planned: dict[int, _Planned] = attrs.field(factory=dict, init=False)

    def indices(self) -> Iterator[int]:
        """Yield the numbers of the rows to read: those that wait, and those that are drawn, without end."""
        n_given = sum(cursor.start.n_given for cursor in self.cursors)
        self._put_back(n_given)
        yield from (row.index for row in self.waiting)
        sources = take_turns(self.turns, self.cursors)
        for index in itertools.count(n_given):
            source = next(sources)
            row, n_rows = self.cursors[source].take()
            self.drawn.put(index, source, row, self.n_reads)
            number, epoch = None if self.turns is None else source, self.cursors[source].epoch
            ended = EndedEpoch(epoch=epoch, n_rows=n_rows, source=number) if n_rows else None
            notes = tuple(cursor.note() for cursor in self.cursors)
            self._behind.append(_Drawn(row=DrawnRow(index, source, row.place), notes=notes, ended=ended))
            yield index

    def steps(self, encoded: Iterable[tuple[Example, ...] | None]) -> Iterator[list[Batch]]:
        """Make each step's microbatches of the examples of each row of `indices`; see `PackedSteps.steps`."""
        return collate_steps(self, encoded)

    def plan(self, found: Iterable[Item | None], count: Callable[[Item], int]) -> Iterator[list[list[Pack[Item]]]]:
        """Choose each step's packs; see `PackedSteps.plan`. None crosses an epoch of a single stream.

        A step has none if all sources were read through and no row could be learned from.
        """
        # Before a row is asked for: others are drawn ahead of it.
        notes, is_over = tuple(cursor.note() for cursor in self.cursors), self.is_over
        n_given = sum(cursor.start.n_given for cursor in self.cursors)
        rows = iter(found)
        held = [(row, item) for row in self.waiting if (item := next(rows)) is not None]
        for step in range(self.first_step + 1, self.n_steps + 1):
            microbatches: list[list[Pack[Item]]] = []
            ended: list[EndedEpoch] = []
            read_through: set[int] = set()
            while len(microbatches) < self.accumulation:
                n_positions = sum(count(item) for _, item in held)
                wanted = LOOKAHEAD * self.batch_size * self.capacity
                while not is_over and n_positions < wanted and (held or len(read_through) < len(self.cursors)):
                    item, drawn = next(rows), self._behind.popleft()
                    notes, n_given = drawn.notes, drawn.row.index + 1
                    if drawn.ended is not None:
                        ended.append(drawn.ended)
                        is_over = self.turns is None
                        read_through.add(drawn.row.source)
                    if item is None:
                        self.drawn.drop([drawn.row.index])
                        continue
                    held.append((drawn.row, item))
                    n_positions += count(item)
                if not held:
                    break
                lengths = [count(item) for _, item in held]
                packs = first_fit_decreasing(lengths, self.capacity)[: self.batch_size]
                microbatches.append([[(held[place][0].index, held[place][1]) for place in pack] for pack in packs])
                taken = {place for pack in packs for place in pack}
                held = [pair for place, pair in enumerate(held) if place not in taken]
            is_over = is_over and bool(held)
            learned = self._keep_own(microbatches)
            waiting = tuple(row for row, _ in held)
            before = self._find_before(waiting, n_given)
            planned = _Planned(
                notes=notes, waiting=waiting, before=before, is_over=is_over, learned=learned, ended=tuple(ended)
            )
            self._remember(step, planned)
            yield microbatches

    def progress_at(self, step: int) -> PackedStreamProgress:
        """Return the progress after a step that was planned, not too long ago."""
        found: PackedStreamSteps | _Planned
        if step == self.first_step:
            found, streams = self, [cursor.start for cursor in self.cursors]
        else:
            found = planned = self._planned[step]
            streams = [note.find() for note in planned.notes]
        return PackedStreamProgress(
            cursors=self.cursors, streams=streams, waiting=found.waiting, is_over=found.is_over, before=found.before
        )

    def dumps(self, step: int) -> str:
        """Write how far the sources were read after a step, and which rows wait, as JSON."""
        return self.progress_at(step).dumps()

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Return the epochs whose last row was drawn for a step that was planned, not too long ago."""
        return self._planned[step].ended

    def _put_back(self, n_given: int) -> None:
        """Let the rows be read that were drawn before and are to be learned, or joined to rows."""
        known = [*self.before, *self.waiting]
        for source, stream in enumerate(self.drawn.streams):
            own = [row for row in known if row.source == source]
            for row, found in zip(own, stream.restore([row.place for row in own]), strict=True):
                self.drawn.put(row.index, source, found, self.n_reads)
        if self.drawn.n_joined:
            waiting = {row.index for row in self.waiting}
            first = min((row.index for row in known), default=n_given)
            self.drawn.drop(index for index in range(first, n_given) if index not in waiting)

    def _find_before(self, waiting: Sequence[DrawnRow], n_given: int) -> tuple[DrawnRow, ...]:
        """Find the rows that do not wait and to which those that wait, or the next ones, may be joined."""
        ends = [*(row.index for row in waiting), n_given] if self.drawn.n_joined else []
        near = {index for end in ends for index in range(max(0, end - self.drawn.n_joined), end)}
        return tuple(map(self.drawn.find, sorted(near.difference(row.index for row in waiting))))

    def _keep_own(self, microbatches: Sequence[Sequence[Pack[Item]]]) -> tuple[int, ...]:
        """Forget the rows of a step that other ranks read, and give this one's."""
        own: list[int] = []
        others: list[int] = []
        for packs in microbatches:
            for place, pack in enumerate(packs):
                kept = own if place % self.n_ranks == self.rank else others
                kept += [index for index, _ in pack]
        self.drawn.drop(others)
        return tuple(own)

    def _remember(self, step: int, planned: _Planned) -> None:
        self._planned[step] = planned
        old = self._planned.pop(step - REMEMBERED - self.n_ahead, None)
        self.drawn.drop(() if old is None else old.learned)


def packed_stream_steps(
    recipe: Recipe, drawn: DrawnRows, first_step: int, position: str, *, n_planned: int, rank: int, n_ranks: int
) -> PackedStreamSteps:
    """Lay out the steps of a recipe that streams its rows and packs them.

    Args:
        recipe: The recipe.
        drawn: Where rows that were drawn are read.
        first_step: Steps done before.
        position: What the training state remembers of them (`BatchSource.position`).
        n_planned: Ranks for which the steps are planned; a microbatch has `train.batch_size` packs for each.
        rank: Whose packs are read; from 0.
        n_ranks: Ranks among which packs are shared out (`vlora.data.pack_sharing.share_packs`).

    Raises:
        CheckpointError: The files are not those of the steps that were done.
    """
    train, data = recipe.train, recipe.data
    starts, waiting, is_over, before = _load(position, drawn, allows_changes=data.allow_changed_rows)
    # Each row is read for itself, and for the one that is joined to it.
    drawn.n_joined, n_readers = (N_DRAWN, 2) if needs_mismatched(recipe) else (0, 1)
    return PackedStreamSteps(
        drawn=drawn,
        cursors=make_cursors(recipe, drawn, starts),
        turns=make_turns(recipe, drawn),
        capacity=train.pack_length or data.max_seq_length,
        batch_size=train.batch_size * n_planned,
        accumulation=train.gradient_accumulation_steps,
        n_steps=train.iters,
        n_ahead=max(data.prefetch, train.gradient_accumulation_steps) * train.batch_size * n_planned,
        n_reads=n_readers if max(n_ranks, n_planned) == 1 else 2 * n_readers,
        rank=rank,
        n_ranks=n_ranks,
        first_step=first_step,
        waiting=waiting,
        is_over=is_over,
        before=before,
    )


def _load(
    position: str, drawn: DrawnRows, *, allows_changes: bool
) -> tuple[list[StreamProgress], list[DrawnRow], bool, list[DrawnRow]]:
    """Read what `PackedStreamProgress.dumps` wrote."""
    if not position:
        return [StreamProgress() for _ in drawn.streams], [], False, []
    try:
        found = json.loads(position)
        starts = parse_progress(found["sources"], drawn, allows_changes=allows_changes)
        waiting, before = (
            [DrawnRow(int(index), int(source), Place(*map(int, place))) for index, source, *place in rows]
            for rows in (found["waiting"], found.get("before", ()))
        )
        return starts, waiting, bool(found["is_over"]), before
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        msg = (
            f"the training state says of its packed stream {position[:200]!r}, which is not understood; begin anew "
            "without --resume"
        )
        raise CheckpointError(msg) from None
