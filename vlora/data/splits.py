"""What `data.split` asks for: names of splits and slices of their rows, as `datasets` writes them. Pure."""

import re

import attrs

_BOUND = r"-?\d(?:_?\d){0,17}%?"
_PART = re.compile(rf"(?P<name>[^\[\]+()]+?)\s*(\[\s*(?P<first>{_BOUND})?\s*:\s*(?P<last>{_BOUND})?\s*\])?")
_ALL_PERCENT = 100


@attrs.frozen
class SplitPart:
    """A split, or rows of it that follow one another.

    Attributes:
        name: The split's.
        first: Of the rows, as it is written: "10", "-10" (from the end), "10%"; None for the first of all.
        last: Up to which row, likewise.
    """

    name: str
    first: str | None = None
    last: str | None = None

    def __str__(self) -> str:
        """Write it as a recipe does."""
        return self.name if self.is_whole else f"{self.name}[{self.first or ''}:{self.last or ''}]"

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the split."""
        return self.first is None and self.last is None

    def choose(self, n_rows: int) -> range:
        """Give the numbers of the rows, of as many as the split has; like `datasets`, no more than there are."""
        places = slice(_place(self.first, n_rows), _place(self.last, n_rows))
        return range(n_rows)[places]


def parse_split(text: str) -> tuple[SplitPart, ...]:
    """Read what a recipe names: `train`, `train[:100]`, `train[10%:20%]`, `train[-50:]`, several joined by `+`.

    Percentages are rounded to the nearest row.

    Raises:
        ValueError: It is written otherwise.
    """
    parts = []
    for written in text.split("+"):
        found = _PART.fullmatch(written.strip())
        if found is None:
            msg = "a split is written as train, train[:100], train[10%:20%] or train[-50:], several are joined by +"
            raise ValueError(msg)
        part = SplitPart(found["name"], found["first"], found["last"])
        if not _is_possible(part):
            msg = f"{part} counts rows or percent, up to 100 of them, and not both"
            raise ValueError(msg)
        parts.append(part)
    return tuple(parts)


def _is_possible(part: SplitPart) -> bool:
    """Whether the bounds of a slice are counted in the same way, and shares are shares."""
    bounds = [bound for bound in (part.first, part.last) if bound is not None]
    shares = [int(bound[:-1]) for bound in bounds if bound.endswith("%")]
    return len(shares) in (0, len(bounds)) and all(abs(share) <= _ALL_PERCENT for share in shares)


def _place(written: str | None, n_rows: int) -> int | None:
    if written is None or not written.endswith("%"):
        return None if written is None else int(written)
    number = round(int(written[:-1]) * n_rows / _ALL_PERCENT)
    return number + n_rows if written.startswith("-") else number
