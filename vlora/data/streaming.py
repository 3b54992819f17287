"""The steps of a run whose rows are streamed: what each one reads, and where a run that goes on begins.

An epoch reads its files in an order of its own, and its rows pass a shuffle buffer. What a run has to remember is how
far it has read, and the places of the rows that wait; a run that goes on reads on from there.

Of several ranks each finds all rows, in the same order, and reads its own ones only. So every row is learned once an
epoch by one of them, and a step has the rows that it has on one rank with as many times the batch. Where a row has to
be read to be found (Parquet, the hub), every rank reads all of them and keeps its own.
"""

import json
from collections.abc import Iterator, Sequence

import attrs

from ..errors import CheckpointError, RecipeError
from ..recipe.schema import Recipe
from ..types import Batch
from .readers.stream import Drawn, DrawnTable, Place, RowStream
from .sampler import share_steps
from .shuffle_buffer import ShuffleBuffer

REMEMBERED = 128
"""Steps whose progress is known, besides those that may have been planned ahead."""


@attrs.frozen(kw_only=True)
class StreamProgress:
    """The progress of a run after a step.

    Attributes:
        epoch: Epochs that are over.
        position: Rows of this epoch that were given to steps.
        last: The row of this epoch that was read last; None if none was.
        waiting: Rows that were read and not given, as they lie in the buffer.
        n_given: Rows that were given in all epochs.
    """

    epoch: int = 0
    position: int = 0
    last: Place | None = None
    waiting: tuple[Place, ...] = ()
    n_given: int = 0

    def dumps(self, stream: RowStream) -> str:
        """Write it as JSON, with what the files are known by from which rows wait."""
        open_shards = sorted({place.shard for place in (*self.waiting, *([] if self.last is None else [self.last]))})
        marks = {shard: stream.mark(shard).files for shard in open_shards}
        found = attrs.asdict(self, recurse=False) | {
            "files": stream.fingerprint(),
            "marks": {shard: files[0][1:] for shard, files in marks.items() if files},
        }
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str, stream: RowStream, *, allows_changes: bool) -> "StreamProgress":
        """Read what `dumps` wrote.

        Raises:
            CheckpointError: It is something else, or the files are not those of then.
        """
        try:
            found = json.loads(text)
            progress = cls(
                epoch=int(found["epoch"]),
                position=int(found["position"]),
                last=None if found["last"] is None else Place(*map(int, found["last"])),
                waiting=tuple(Place(*map(int, place)) for place in found["waiting"]),
                n_given=int(found["n_given"]),
            )
            files, marks = str(found["files"]), {int(shard): tuple(mark) for shard, mark in found["marks"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            msg = f"the training state says of its stream {text[:200]!r}, which is not understood"
            raise CheckpointError(msg) from None
        if files != stream.fingerprint():
            msg = "data.path: its files have other names than then, or others were added; put them back, or begin anew"
            raise CheckpointError(msg)
        for shard, mark in marks.items():
            if not allows_changes and [mark] != [file[1:] for file in stream.mark(shard).files]:
                msg = (
                    f"data.path: {stream.files[shard].name} has changed since; put it back, begin anew without "
                    "--resume, or go on all the same with --set data.allow_changed_rows=true"
                )
                raise CheckpointError(msg)
        return progress


@attrs.define(eq=False, kw_only=True)
class StreamSteps:
    """Plans the steps of a run whose rows are streamed.

    Attributes:
        table: Where rows that were planned are read.
        batch_size: Rows of a microbatch, those of all ranks together.
        accumulation: Microbatches of a step.
        seed: The run's seed.
        shuffle: Draw an order of files and rows.
        buffer_size: Rows that wait at most.
        n_steps: Steps of the whole run.
        n_ahead: Rows that are read ahead of the step in hand at most.
        first_step: Steps done before.
        start: How far the run had come then.
        rank: Whose rows; from 0.
        n_ranks: Ranks among which rows are shared out.
        own_batch_size: Rows of a microbatch of one rank.
    """

    table: DrawnTable
    batch_size: int
    accumulation: int
    seed: int
    shuffle: bool
    buffer_size: int
    n_steps: int
    n_ahead: int
    first_step: int = 0
    start: StreamProgress = attrs.field(factory=StreamProgress)
    rank: int = 0
    n_ranks: int = 1
    own_batch_size: int
    _progress: dict[int, StreamProgress] = attrs.field(factory=dict, init=False)
    _given: dict[int, list[int]] = attrs.field(factory=dict, init=False)

    def steps(self) -> Iterator[list[list[int]]]:
        """Yield each step's microbatches, epoch after epoch, as long as there are steps.

        The microbatches left at the end of an epoch make a shorter step; none crosses epochs.

        Yields:
            Numbers by which `table` reads this rank's rows.

        Raises:
            RecipeError: An epoch has no row.
        """
        progress = self.start
        for step in range(self.first_step + 1, self.n_steps + 1):
            if step == self.first_step + 1 or not progress.position:
                buffer = self._open(progress)
            batches = self._take(buffer)
            if not batches:
                msg = "data.path: the stream has no rows any more; its files have changed while the run read them"
                raise RecipeError(msg)
            n_rows = sum(map(len, batches))
            indices = range(progress.n_given, progress.n_given + n_rows)
            progress = self._describe(buffer, progress, n_rows)
            yield self._share(step, batches, indices, progress)

    def progress_at(self, step: int) -> StreamProgress:
        """Return the progress after a step that `steps` has yielded, not too long ago."""
        return self.start if step == self.first_step else self._progress[step]

    def _open(self, progress: StreamProgress) -> ShuffleBuffer[Drawn]:
        stream = self.table.stream
        order = stream.order(seed=self.seed, epoch=progress.epoch, shuffle=self.shuffle)
        last = progress.last
        return ShuffleBuffer(
            source=stream.find(order, last),
            size=self.buffer_size if self.shuffle else 1,
            seed=self.seed,
            epoch=progress.epoch,
            position=progress.position,
            waiting=stream.restore(progress.waiting),
            last=None if last is None else Drawn(last),
        )

    def _take(self, buffer: ShuffleBuffer[Drawn]) -> list[list[Drawn]]:
        batches: list[list[Drawn]] = []
        while len(batches) < self.accumulation and buffer.fill():
            rows = [buffer.take()]
            while len(rows) < self.batch_size and buffer.fill():
                rows.append(buffer.take())
            batches.append(rows)
        return batches

    def _describe(self, buffer: ShuffleBuffer[Drawn], before: StreamProgress, n_rows: int) -> StreamProgress:
        n_given = before.n_given + n_rows
        if not buffer.fill():
            return StreamProgress(epoch=before.epoch + 1, n_given=n_given)
        return StreamProgress(
            epoch=before.epoch,
            position=buffer.position,
            last=None if buffer.last is None else buffer.last.place,
            waiting=tuple(row.place for row in buffer.waiting),
            n_given=n_given,
        )

    def _share(
        self, step: int, batches: Sequence[Sequence[Drawn]], indices: range, progress: StreamProgress
    ) -> list[list[int]]:
        """Let this rank's rows be read by their numbers, and remember the step."""
        rows = dict(zip(indices, (row for batch in batches for row in batch), strict=True))
        numbers = iter(indices)
        planned = [[next(numbers) for _ in batch] for batch in batches]
        (own,) = share_steps([planned], self.rank, self.n_ranks, self.own_batch_size)
        self._given[step] = [index for batch in own for index in batch]
        for index in self._given[step]:
            self.table.put(index, rows[index])
        self._progress[step] = progress
        # A step has one row at least, so that no more steps than rows are planned ahead.
        old = step - REMEMBERED - self.n_ahead
        self.table.drop(self._given.pop(old, ()))
        self._progress.pop(old, None)
        return own


def stream_steps(
    recipe: Recipe, table: DrawnTable, first_step: int, position: str, *, n_planned: int, rank: int, n_ranks: int
) -> StreamSteps:
    """Plan the steps of a recipe that streams its rows.

    Args:
        recipe: The recipe.
        table: Where rows that were planned are read.
        first_step: Steps done before.
        position: What the training state remembers of them (`BatchSource.position`).
        n_planned: Ranks for which the steps are planned; a microbatch has `train.batch_size` rows for each.
        rank: Whose rows; from 0.
        n_ranks: Ranks among which rows are shared out.

    Raises:
        CheckpointError: The files are not those of the steps that were done.
    """
    train, data = recipe.train, recipe.data
    start = StreamProgress()
    if position:
        start = StreamProgress.loads(position, table.stream, allows_changes=data.allow_changed_rows)
    return StreamSteps(
        table=table,
        batch_size=train.batch_size * n_planned,
        own_batch_size=train.batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=data.shuffle,
        buffer_size=data.shuffle_buffer,
        n_steps=train.iters,
        n_ahead=max(data.prefetch, train.gradient_accumulation_steps) * train.batch_size * n_ranks,
        first_step=first_step,
        start=start,
        rank=rank,
        n_ranks=n_ranks,
    )


@attrs.frozen(eq=False, kw_only=True)
class StreamSource:
    """Batches of streamed rows.

    Attributes:
        batches: Microbatches, step by step.
        steps: How they are planned.
    """

    batches: Iterator[list[Batch]]
    steps: StreamSteps
    is_estimated: bool = False

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run."""
        del step
        return self.steps.n_steps

    def ended(self, step: int) -> tuple[int, int] | None:
        """Give the epochs that are over, and the rows of the last one, if a step has ended it."""
        before, after = self.steps.progress_at(step - 1), self.steps.progress_at(step)
        n_rows = after.n_given - before.n_given + before.position
        return (after.epoch, n_rows) if after.epoch > before.epoch else None

    def position(self, step: int) -> str:
        """Return how far the stream was read after a step, and which rows wait."""
        return self.steps.progress_at(step).dumps(self.steps.table.stream)
