"""What was learned of each source, counted over a run and over those that it goes on from."""

from pathlib import Path

import attrs
import pytest

from tests.data.streams import open_files, write_lines
from vlora.data.batch_source import EndedEpoch
from vlora.data.mixed_rows import mix_rows
from vlora.data.rows import RowDataset
from vlora.errors import CheckpointError
from vlora.run.source_counts import SourceCounts
from vlora.types import RowMark


def make(name: str, n_rows: int) -> RowDataset:
    return RowDataset(name=name, table=[{}] * n_rows, indices=range(n_rows))


def test_rows_are_counted_by_source() -> None:
    """Each as often as it was learned; a run that goes on counts on."""
    rows = mix_rows("a + b", [make("a", 4), make("b", 2)])
    counts = SourceCounts.begin(rows)
    counts.add(RowMark(index=index, digest="", n_tokens=10 + index) for index in (0, 4, 5, 4))
    text = counts.dumps()
    counts = SourceCounts.begin(rows, text)
    counts.add([RowMark(index=3, digest="", n_tokens=1)])

    assert [(use.name, use.n_rows, use.epochs, use.n_tokens) for use in counts.uses()] == [
        ("a", 2, 0.5, 11),
        ("b", 3, 1.5, 43),
    ]
    assert counts.measure() == {
        "epochs/a": 0.5,
        "rows/a": 2,
        "tokens/a": 11,
        "epochs/b": 1.5,
        "rows/b": 3,
        "tokens/b": 43,
    }


def test_rows_that_are_no_mixture() -> None:
    """Nothing is counted, and a training state says nothing of it."""
    counts = SourceCounts.begin(make("a", 4), "[[1], [2]]")
    counts.add([RowMark(index=0, digest="", n_tokens=3)])

    assert (counts.uses(), counts.measure(), counts.dumps()) == ((), {}, None)


@pytest.mark.parametrize("found", ["", "[[1, 2]]", "[[1], [2]]", "[[1, 2], [3, 4], [5, 6]]", '[["a", 2], [3, 4]]', "7"])
def test_counts_of_other_sources_are_refused(found: str) -> None:
    """A training state that says something else is named, and what to do."""
    rows = mix_rows("a + b", [make("a", 4), make("b", 2)])
    with pytest.raises(CheckpointError, match="which is not understood of 2 sources; begin anew"):
        SourceCounts.begin(rows, found)


def test_epochs_of_streams_are_known_once_one_is_over(tmp_path: Path) -> None:
    """Rows belong to the source of their file; what a training state says goes on, also of a stream of one file."""
    each = [
        attrs.evolve(make(name, 1), stream=open_files(write_lines(tmp_path / name, sizes)))
        for name, sizes in (("a", (2, 2)), ("b", (1,)))
    ]
    rows = mix_rows("a + b", each, weights=[1, 1])
    counts = SourceCounts.begin(rows)
    counts.add(RowMark(index=index, digest="", n_tokens=5) for index in (0, 1, 2, 2, 2))
    counts = SourceCounts.begin(rows, counts.dumps())

    assert [(use.n_rows, use.epochs) for use in counts.uses()] == [(2, None), (3, None)]
    assert "epochs/a" not in counts.measure()
    assert counts.end_epoch(EndedEpoch(epoch=1, n_rows=1, source=1)) == "b"
    assert counts.end_epoch(EndedEpoch(epoch=1, n_rows=4)) == ""
    counts = SourceCounts.begin(rows, counts.dumps())
    assert [use.epochs for use in counts.uses()] == [None, 3.0]
    assert counts.measure()["epochs/b"] == 3.0
