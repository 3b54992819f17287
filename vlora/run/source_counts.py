"""What a run has learned of each source of a mixture: rows, and epochs of its own."""

import json
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..data.batch_source import EndedEpoch
from ..data.mixture import count_by_source
from ..data.rows import RowDataset
from ..errors import CheckpointError
from ..facts import SourceUse
from ..types import RowMark


@attrs.define(eq=False)
class SourceCounts:
    """The rows that were learned so far, by source; nothing is counted of rows that are no mixture.

    Attributes:
        names: The sources, as messages name their rows.
        sizes: Rows of each; of a stream those of its last epoch that has ended, None before.
        n_marks: What is told apart of each: its rows, or the files of a stream.
        n_rows: Rows of each that were learned, each row as often as it was.
        n_tokens: Their tokens.
        is_streamed: Whether the sources are streams.
    """

    names: Sequence[str]
    sizes: list[int | None]
    n_marks: Sequence[int]
    n_rows: list[int]
    n_tokens: list[int]
    is_streamed: bool = False

    @classmethod
    def begin(cls, rows: RowDataset, found: str | None = None) -> "SourceCounts":
        """Begin to count, or go on.

        Args:
            rows: The rows to train on.
            found: What `dumps` gave for a training state; None if it says nothing.

        Raises:
            CheckpointError: It is something else, or of other sources.
        """
        shares = rows.shares()
        sizes = [share.n_rows for share in shares]
        is_streamed = bool(rows.streams)
        n_marks = [len(stream.files) for stream in rows.streams] if is_streamed else [size or 0 for size in sizes]
        counts = cls(
            [share.name for share in shares], sizes, n_marks, [0] * len(shares), [0] * len(shares), is_streamed
        )
        if found is not None and shares:
            counts.n_rows, counts.n_tokens, *ended = _parse(found, len(shares), 3 if is_streamed else 2)
            if ended:
                counts.sizes = [size or None for size in ended[0]]
        return counts

    def add(self, marks: Iterable[RowMark]) -> None:
        """Count rows of a step."""
        if not self.names:
            return
        marks = list(marks)
        indices = [mark.index for mark in marks]
        self.n_rows = [sum(both) for both in zip(self.n_rows, count_by_source(self.n_marks, indices), strict=True)]
        tokens = [mark.n_tokens for mark in marks]
        self.n_tokens = [
            sum(both) for both in zip(self.n_tokens, count_by_source(self.n_marks, indices, tokens), strict=True)
        ]

    def end_epoch(self, ended: EndedEpoch) -> str:
        """Take note of an epoch of a stream that has ended; name its source, "" of a single stream."""
        if ended.source is None:
            return ""
        self.sizes[ended.source] = ended.n_rows
        return self.names[ended.source]

    def uses(self) -> tuple[SourceUse, ...]:
        """Say what was learned of each source."""
        found = zip(self.names, self.sizes, self.n_rows, self.n_tokens, strict=True)
        return tuple(
            SourceUse(name=name, n_rows=n_rows, epochs=None if size is None else n_rows / size, n_tokens=n_tokens)
            for name, size, n_rows, n_tokens in found
        )

    def measure(self) -> Mapping[str, float]:
        """Give what a line of the metrics has of it: epochs, rows and tokens since the run began."""
        return {
            f"{what}/{use.name}": value
            for use in self.uses()
            for what, value in (("epochs", use.epochs), ("rows", use.n_rows), ("tokens", use.n_tokens))
            if value is not None
        }

    def dumps(self) -> str | None:
        """Write it for a training state; None if there is nothing to write."""
        if not self.names:
            return None
        # How many rows a stream has shows while it is read.
        ended = [[size or 0 for size in self.sizes]] if self.is_streamed else []
        return json.dumps([self.n_rows, self.n_tokens, *ended])


def _parse(found: str, n_sources: int, n_lists: int) -> list[list[int]]:
    try:
        counts = [[int(number) for number in numbers] for numbers in json.loads(found)]
        if list(map(len, counts)) == [n_sources] * n_lists:
            return counts
    except (ValueError, TypeError):
        pass
    msg = (
        f"the training state says {found[:200]!r} of what was learned of each source, which is not understood of "
        f"{n_sources} sources; begin anew without --resume"
    )
    raise CheckpointError(msg)
