"""Rows of which `data.max_seq_length` has left tokens out: counted, so that none is shortened in silence. Pure."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from .errors import CheckpointError

if TYPE_CHECKING:
    # The command line's help needs these events and not MLX.
    from .types import Batch, Cut

NAMED = 4
"""Rows of a line of metrics.jsonl that are named."""


@attrs.frozen(kw_only=True)
class CutCounts:
    """How many rows were cut, each counted whenever it is learned.

    Attributes:
        n_rows: Rows that were cut.
        n_losing: Those of them that lost tokens which were to be learned.
        n_lost: Such tokens.
        first: The first one that lost such tokens, or if none did the first one, in words; empty if none was cut.
        is_losing: Whether the first one lost such tokens.
    """

    n_rows: int = 0
    n_losing: int = 0
    n_lost: int = 0
    first: str = ""
    is_losing: bool = False

    def add(self, cuts: Sequence["Cut"]) -> "CutCounts":
        """Count more rows."""
        losing = [cut for cut in cuts if cut.n_lost]
        first, is_losing = self.first, self.is_losing
        if losing and not is_losing:
            first, is_losing = losing[0].describe(), True
        elif cuts and not first:
            first = cuts[0].describe()
        return CutCounts(
            n_rows=self.n_rows + len(cuts),
            n_losing=self.n_losing + len(losing),
            n_lost=self.n_lost + sum(cut.n_lost for cut in losing),
            first=first,
            is_losing=is_losing,
        )

    def join(self, others: "CutCounts") -> "CutCounts":
        """Add what was counted elsewhere."""
        is_others = not self.first or (others.is_losing and not self.is_losing)
        return CutCounts(
            n_rows=self.n_rows + others.n_rows,
            n_losing=self.n_losing + others.n_losing,
            n_lost=self.n_lost + others.n_lost,
            first=others.first if is_others else self.first,
            is_losing=self.is_losing or others.is_losing,
        )

    def describe(self) -> str:
        """Say how many rows were cut, and name one."""
        rows = "1 row was" if self.n_rows == 1 else f"{self.n_rows:,} rows were"
        return f"{rows} cut by data.max_seq_length; {self.describe_losses()}"

    def describe_losses(self) -> str:
        """Say of how many of the rows supervised tokens were lost, and name one."""
        lost = "no supervised token was lost"
        if self.n_losing:
            lost = f"{self.n_losing:,} lost supervised tokens ({self.n_lost:,} in all)"
        return f"{lost}; first: {self.first}"

    def dumps(self) -> str:
        """Write it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> "CutCounts":
        """Read what `dumps` wrote.

        Raises:
            CheckpointError: It is something else.
        """
        try:
            found = json.loads(text)
            counts = {name: int(found[name]) for name in ("n_rows", "n_losing", "n_lost")}
            return cls(**counts, first=str(found["first"]), is_losing=bool(found["is_losing"]))
        except (ValueError, KeyError, TypeError):
            msg = f"the training state says of the rows that were cut {text!r}, which is not understood"
            raise CheckpointError(msg) from None


def find_cuts(batches: Iterable["Batch"]) -> Iterator["Cut"]:
    """List what was cut of the rows of some batches."""
    for batch in batches:
        yield from (row.cut for row in batch.rows if row.cut is not None)


def measure_cuts(n_rows: int, n_lost: int, names: Sequence[str]) -> dict[str, float | str]:
    """Count and name the rows that were cut, as metrics.jsonl has them.

    Args:
        n_rows: Rows that were cut.
        n_lost: Tokens to be learned that were left out.
        names: The first ones of the rows, `NAMED` at most.
    """
    found: dict[str, float | str] = {"cut_rows": n_rows, "cut_supervised_tokens": n_lost}
    if n_rows:
        more = n_rows - len(names)
        found["cut_row_names"] = ", ".join(names) + (f" and {more} more" if more else "")
    return found
