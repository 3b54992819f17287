"""How far a stream has been read: its rows drawn one after another, epoch after epoch, and exact restarts.

An epoch reads its files in an order of its own, and its rows pass a shuffle buffer. What a run has to remember is how
far it has read, and the places of the rows that wait; a run that goes on reads on from there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..errors import CheckpointError, RecipeError
from .readers.stream import Drawn, Place, RowStream
from .shuffle_buffer import ShuffleBuffer

MOST_NOTED = 4096
"""Places that are noted behind a known progress before a newer one is made."""


@attrs.frozen(kw_only=True)
class StreamProgress:
    """How far a stream has been read.

    Attributes:
        epoch: Epochs that are over.
        position: Rows of this epoch that were given.
        last: The row of this epoch that was read last; None if none was.
        waiting: Rows that were read and not given, as they lie in the buffer.
        n_given: Rows that were given in all epochs.
    """

    epoch: int = 0
    position: int = 0
    last: Place | None = None
    waiting: tuple[Place, ...] = ()
    n_given: int = 0

    def dump(self, stream: RowStream) -> dict[str, Any]:
        """Give it as JSON has it, with what the files are known by from which rows wait."""
        open_shards = sorted({place.shard for place in (*self.waiting, *([] if self.last is None else [self.last]))})
        marks = {str(shard): stream.mark(shard).files for shard in open_shards}
        return attrs.asdict(self, recurse=False) | {
            "files": stream.fingerprint(),
            "marks": {shard: files[0][1:] for shard, files in marks.items() if files},
        }

    @classmethod
    def parse(
        cls, found: Mapping[str, Any], stream: RowStream, *, key: str = "data", allows_changes: bool
    ) -> "StreamProgress":
        """Read what `dump` gave.

        Args:
            found: What it gave.
            stream: The stream as it is now.
            key: The section of the recipe that names it, for errors.
            allows_changes: Whether files from which rows wait may have changed.

        Raises:
            CheckpointError: The files are not those of then.
            ValueError, KeyError, TypeError, AttributeError: It is something else.
        """
        progress = cls(
            epoch=int(found["epoch"]),
            position=int(found["position"]),
            last=None if found["last"] is None else Place(*map(int, found["last"])),
            waiting=tuple(Place(*map(int, place)) for place in found["waiting"]),
            n_given=int(found["n_given"]),
        )
        marks = {int(shard): tuple(mark) for shard, mark in found["marks"].items()}
        check_names(found, stream, key)
        for shard, mark in marks.items():
            if not allows_changes and [mark] != [file[1:] for file in stream.mark(shard).files]:
                msg = (
                    f"{key}.path: {stream.files[shard].name} has changed since; put it back, begin anew without "
                    "--resume, or go on all the same with --set data.allow_changed_rows=true"
                )
                raise CheckpointError(msg)
        return progress


def check_names(found: Mapping[str, Any], stream: RowStream, key: str) -> None:
    """Check that a stream has the files that it had.

    Args:
        found: What `StreamProgress.dump` gave then.
        stream: The stream as it is now.
        key: The section of the recipe that names it, for the error.

    Raises:
        CheckpointError: It has others.
        KeyError: It is something else.
    """
    if str(found["files"]) != stream.fingerprint():
        msg = (
            f"{key}.path: its files have other names than then, or others were added; put them back, or begin anew "
            "without --resume"
        )
        raise CheckpointError(msg)


@attrs.frozen(eq=False, kw_only=True)
class ProgressNote:
    """A progress that is written in full when it is asked for: an earlier one, and what was read and given since.

    Attributes:
        before: The earlier one.
        noted: Places that were read since, and perhaps others behind them.
        n_read: How many of them were.
        n_taken: Rows that were given since.
        seed: The stream's.
        size: Rows that wait at most.
    """

    before: StreamProgress
    noted: Sequence[Place]
    n_read: int
    n_taken: int
    seed: int
    size: int

    def find(self) -> StreamProgress:
        """Fill a buffer with places again, and take from it as the rows were taken."""
        before = self.before
        buffer = ShuffleBuffer(
            source=itertools.islice(self.noted, self.n_read),
            size=self.size,
            seed=self.seed,
            epoch=before.epoch,
            position=before.position,
            waiting=list(before.waiting),
            last=before.last,
        )
        for _ in range(self.n_taken):
            buffer.fill()
            buffer.take()
        buffer.fill()
        return attrs.evolve(
            before,
            position=buffer.position,
            last=buffer.last,
            waiting=tuple(buffer.waiting),
            n_given=before.n_given + self.n_taken,
        )


@attrs.define(eq=False, kw_only=True)
class StreamCursor:
    """Draws the rows of a stream.

    Attributes:
        stream: The stream.
        seed: Fixes its orders.
        shuffle: Draw an order of files and rows.
        buffer_size: Rows that wait at most.
        key: The section of the recipe that names it, for errors.
        start: How far it was read before.
        epoch: Epochs that are over.
    """

    stream: RowStream
    seed: int
    shuffle: bool
    buffer_size: int
    key: str = "data"
    start: StreamProgress = attrs.field(factory=StreamProgress)
    epoch: int = attrs.field(init=False)
    _before: StreamProgress = attrs.field(init=False)
    _noted: list[Place] = attrs.field(factory=list, init=False)
    _n_taken: int = attrs.field(default=0, init=False)
    _buffer: ShuffleBuffer[Drawn] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Begin at the start."""
        self.epoch, self._before = self.start.epoch, self.start

    def take(self) -> tuple[Drawn, int]:
        """Give the next row; and, if it is the last one of an epoch, how many rows that had, otherwise 0.

        Raises:
            RecipeError: An epoch has no row.
        """
        buffer = self._buffer or self._open()
        row = buffer.take()
        self._n_taken += 1
        if buffer.fill():
            return row, 0
        self.epoch += 1
        self._begin(StreamProgress(epoch=self.epoch, n_given=self.n_given))
        self._buffer = None
        return row, buffer.position

    @property
    def position(self) -> int:
        """Rows of this epoch that were given."""
        return self._before.position if self._buffer is None else self._buffer.position

    @property
    def n_given(self) -> int:
        """Rows that were given in all epochs."""
        return self._before.n_given + self._n_taken

    def note(self) -> ProgressNote:
        """Say how far the stream was read; the rows that wait are not copied for it."""
        size = self.buffer_size if self.shuffle else 1
        if len(self._noted) > max(MOST_NOTED, 4 * size):
            self._begin(self._describe(size).find())
        return self._describe(size)

    def _describe(self, size: int) -> ProgressNote:
        n_read, n_taken = len(self._noted), self._n_taken
        return ProgressNote(
            before=self._before, noted=self._noted, n_read=n_read, n_taken=n_taken, seed=self.seed, size=size
        )

    def _begin(self, before: StreamProgress) -> None:
        # A new list: what was noted before belongs to the notes of then.
        self._before, self._noted, self._n_taken = before, [], 0

    def _open(self) -> ShuffleBuffer[Drawn]:
        before = self._before
        order = self.stream.order(seed=self.seed, epoch=self.epoch, shuffle=self.shuffle)
        buffer = ShuffleBuffer(
            source=self._read(self.stream.find(order, before.last)),
            size=self.buffer_size if self.shuffle else 1,
            seed=self.seed,
            epoch=self.epoch,
            position=before.position,
            waiting=self.stream.restore(before.waiting),
            last=None if before.last is None else Drawn(before.last),
        )
        if not buffer.fill():
            msg = f"{self.key}.path: the stream has no rows any more; its files have changed while the run read them"
            raise RecipeError(msg)
        self._buffer = buffer
        return buffer

    def _read(self, rows: Iterator[Drawn]) -> Iterator[Drawn]:
        for row in rows:
            self._noted.append(row.place)
            yield row
