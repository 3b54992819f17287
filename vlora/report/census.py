"""All rows of a recipe, counted as training would see them; no picture is decoded and no weights are loaded."""

import hashlib
import re
from collections.abc import Iterator

import attrs

from .. import models
from ..build import load_data
from ..cuts import CutCounts
from ..data.prefetch import WorkerPool, count_workers
from ..data.rows import RowDataset
from ..errors import LongRowError, SampleError
from ..events import Columns, TemplateUse
from ..recipe.schema import Recipe
from ..types import Cut, Sample

ROWS_AHEAD = 8
"""Rows for each thread that are counted before they are asked for."""

_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|(?:\S*[\d/]\S*?|\S+\.\w{2,5})(?=[:;,.)]*(?:\s|$))")
"""What differs between rows that are refused for one reason: what is quoted, numbers, paths and names of files."""


@attrs.define
class Refusal:
    """Rows that are refused for one reason.

    Attributes:
        first: Why the first of them is, in full.
        n_rows: How many they are.
    """

    first: str
    n_rows: int = 0


@attrs.define(kw_only=True)
class Census:
    """The counts of one data set so far.

    Attributes:
        name: The data set's.
        n_rows: All its rows.
        template: What writes the conversations.
        method: How tokens of images are counted.
        columns: Which columns of the rows are used, and which are not; known once all rows are counted.
        n_seen: Rows counted so far.
        n_tokens: Tokens that are kept of them, those of images included.
        n_image_tokens: Those that stand for images.
        n_supervised: Those that are learned.
        n_images: Images.
        longest: Tokens of the longest row, before it is cut.
        longest_source: That row.
        cuts: Rows that are cut.
        refused: Rows that cannot be learned from, by reason.
        left_out: Rows longer than data.max_seq_length, where data.on_long_row = "skip" leaves them out.
        n_duplicates: Rows equal to an earlier one in all their text and in the files, or bytes, of their images.
        first_duplicate: The first of them and the one that it is equal to, in words; empty if there is none.
    """

    name: str
    n_rows: int
    template: TemplateUse
    method: str
    columns: Columns = attrs.field(factory=Columns)
    n_seen: int = 0
    n_tokens: int = 0
    n_image_tokens: int = 0
    n_supervised: int = 0
    n_images: int = 0
    longest: int = 0
    longest_source: str = ""
    cuts: CutCounts = attrs.field(factory=CutCounts)
    refused: dict[str, Refusal] = attrs.field(factory=dict)
    left_out: int = 0
    n_duplicates: int = 0
    first_duplicate: str = ""
    _known: dict[int, int] = attrs.field(factory=dict, repr=False)

    @property
    def n_refused(self) -> int:
        """Rows that cannot be learned from."""
        return sum(refusal.n_rows for refusal in self.refused.values())

    def add(self, row: "_Counted") -> None:
        """Count a row."""
        self.n_seen += 1
        if row.fingerprint is not None:
            earlier = self._known.setdefault(row.fingerprint, row.index)
            self.n_duplicates += earlier != row.index
            if earlier != row.index and not self.first_duplicate:
                self.first_duplicate = f"{row.source} equals row {earlier}"
        if row.is_left_out:
            self.left_out += 1
            return
        if row.problem is not None:
            self._refuse(row.problem, row.source)
            return
        self.n_tokens += row.n_tokens
        self.n_image_tokens += row.n_image_tokens
        self.n_supervised += row.n_supervised
        self.n_images += row.n_images
        whole = row.n_tokens
        if row.cut is not None:
            self.cuts, whole = self.cuts.add([row.cut]), row.cut.n_tokens
        if whole > self.longest:
            self.longest, self.longest_source = whole, row.source

    def _refuse(self, problem: str, source: str) -> None:
        reason = _VARIABLE.sub("...", problem.removeprefix(source))
        self.refused.setdefault(reason, Refusal(problem)).n_rows += 1


@attrs.frozen(kw_only=True)
class _Counted:
    """One row, counted."""

    source: str
    index: int
    fingerprint: int | None = None
    problem: str | None = None
    is_left_out: bool = False
    n_tokens: int = 0
    n_image_tokens: int = 0
    n_supervised: int = 0
    n_images: int = 0
    cut: Cut | None = None


def count_rows(recipe: Recipe) -> Iterator[Census]:
    """Count all rows of a recipe: those to train on, then those to validate on.

    Yields:
        The counts of a data set before its first row and after every row: one object, which goes on counting.

    Raises:
        VloraError: The recipe names something that is not there.
    """
    data = load_data(recipe)
    data.encoder.prepare(data.train.first_samples())
    measure = models.RowMeasurer(data.encoder)
    template, method = data.encoder.template_use(), measure.describe()
    n_workers = count_workers(recipe.data.workers)
    with WorkerPool(n_workers) as workers:
        for rows in (data.train, *([] if data.valid is None else [data.valid])):
            is_held_out = rows is not data.train and rows.name == data.train.name
            name = f"{rows.name}, held out to validate on" if is_held_out else rows.name
            census = Census(name=name, n_rows=len(rows), template=template, method=method)
            yield census

            def count(index: int, rows: RowDataset = rows) -> _Counted:
                return _count(rows, index, measure, may_leave_out=recipe.data.on_long_row == "skip")

            for row in workers.map(count, range(len(rows)), ROWS_AHEAD * max(1, n_workers)):
                census.add(row)
                if census.n_seen == len(rows):
                    census.columns = rows.columns()
                yield census


def _count(rows: RowDataset, index: int, measure: models.RowMeasurer, *, may_leave_out: bool) -> _Counted:
    own = int(rows.indices[index])
    source, fingerprint = f"{rows.name} row {own}", None
    try:
        sample = rows[index]
        fingerprint = _fingerprint(sample)
        example = measure(sample)
    except SampleError as error:
        is_left_out = may_leave_out and isinstance(error, LongRowError)
        return _Counted(source=source, index=own, fingerprint=fingerprint, problem=str(error), is_left_out=is_left_out)
    return _Counted(
        source=source,
        index=own,
        fingerprint=fingerprint,
        n_tokens=len(example.tokens),
        n_image_tokens=int(example.placeholders.sum()),
        n_supervised=int(example.supervised.sum()),
        n_images=len(sample.images),
        cut=example.cut,
    )


def _fingerprint(sample: Sample) -> int:
    """Stand for a row's text and images: files by their paths, since their bytes are not read."""
    written = repr((sample.turns, sample.tools, sample.objects))
    found = hashlib.blake2b(written.encode("utf-8", "surrogatepass"), digest_size=8)
    for image in sample.images:
        found.update(b"\0image" + models.name_content(image))
    return int.from_bytes(found.digest())
