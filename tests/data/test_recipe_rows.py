"""Rows as a recipe names them: several streams, their first rows, what is held out of them, what is refused."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.data.streams import write_lines
from vlora.cli.sentences import describe_share
from vlora.data import stream_opening
from vlora.data.recipe_rows import check_rows, open_rows, refuse_stream
from vlora.data.rows import RowDataset
from vlora.errors import RecipeError
from vlora.recipe.schema import DataSection
from vlora.recipe.sources import SourceSection


def mixed(tmp_path: Path, *sources: dict[str, Any], **keys: Any) -> DataSection:
    """Make a section with two streams, of seven rows and of four."""
    paths = [write_lines(tmp_path / "a", (2, 5)), write_lines(tmp_path / "b", (4,), first=100)]
    given = sources or ({}, {})
    each = [attrs.evolve(SourceSection(path=path, weight=1.0), **own) for path, own in zip(paths, given, strict=True)]
    return DataSection(sources=tuple(each), streaming=True, **keys)


def numbers(rows: RowDataset | None) -> list[int]:
    """Read the numbers of all rows that can be asked for."""
    assert rows is not None
    return [int(rows[index].turns[-1].text.removeprefix("It is ").rstrip(".")) for index in range(len(rows))]


def test_the_first_rows_of_every_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have numbers; the streams have all. The sources are named apart by their paths, as their shares are."""
    monkeypatch.setattr(stream_opening, "HEAD_ROWS", 3)
    data = mixed(tmp_path, {"weight": 3.0}, {})
    check_rows(data)
    train, valid = open_rows(data)

    assert (numbers(train), valid) == ([0, 1, 2, 100, 101, 102], None)
    assert (train.n_known, train.n_marks, len(train.streams)) == (None, 3, 2)
    assert train.title.endswith("(6 rows of 2 streams)")
    assert [(share.wanted, share.real, share.n_rows) for share in train.shares()] == [
        (0.75, 0.75, None),
        (0.25, 0.25, None),
    ]
    names = [share.name for share in train.shares()]
    assert names == [source.path for source in data.sources]


def test_a_single_source_needs_no_weight(tmp_path: Path) -> None:
    """It has all rows."""
    source = SourceSection(path=write_lines(tmp_path, (2, 3)), rows=4)
    train, _ = open_rows(DataSection(sources=(source,), streaming=True))

    assert numbers(train) == [0, 1, 2, 3]
    assert [share.wanted for share in train.shares()] == [1.0]


def test_streams_without_weights_have_no_known_shares(tmp_path: Path) -> None:
    """Their rows are not counted, and the start says how they are mixed."""
    train, _ = open_rows(mixed(tmp_path, {"weight": None}, {"weight": None}))

    assert [(share.wanted, share.real, share.n_drawn) for share in train.shares()] == [(None, None, None)] * 2
    assert describe_share(train.shares()[0]).endswith("take turns with those of the others, each once an epoch of all")


def test_each_source_holds_out_its_own_first_rows(tmp_path: Path) -> None:
    """By its own slices, or those of [data]; `rows` counts behind them."""
    own = {"split": "train[3:]", "rows": 2}
    train, valid = open_rows(mixed(tmp_path, own, {}, split="train[1:]", valid_split="train[:1]"))

    assert numbers(train) == [3, 4, 101, 102, 103]
    assert [row.place.number for row in train.streams[0].find([1, 0])] == [1, 2]
    assert numbers(valid) == [0, 100]


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 8])
def test_no_more_rows_than_asked_for(tmp_path: Path, most: int) -> None:
    """Whichever file is read first, and wherever the reading begins."""
    train, _ = open_rows(mixed(tmp_path, {"rows": most}, {}))
    stream = train.streams[0]
    for order in ([0, 1], [1, 0]):
        found = list(stream.find(order))
        own = [stream.read(row)["answer"] for row in found]
        assert sorted(own) == [f"It is {number}." for number in range(min(most, 7))]
        for place, row in enumerate(found):
            assert list(stream.find(order, row.place)) == found[place + 1 :]


def test_one_set_validates_all_sources(tmp_path: Path) -> None:
    """`data.valid_path`, read by number or as files of a stream."""
    other = write_lines(tmp_path / "valid", (1, 2), first=50)
    _, valid = open_rows(mixed(tmp_path, valid_path=other))

    assert numbers(valid) == [50, 51, 52]


def test_what_is_wrong_names_its_source(tmp_path: Path) -> None:
    """A path that is not there, a slice of a stream, a weight that gives no row, rows that are all left out."""
    for own, message in (
        ({"path": str(tmp_path / "no.jsonl")}, r"data\.sources\[1\]\.path: cannot read .*there is no such file"),
        ({"split": "train[:3]"}, r"data\.sources\[1\]\.split: found 'train\[:3\]'; a stream is cut at its beginning"),
        ({"split": "train[4:]"}, r"data\.sources\[1\]\.split: .* has 4 rows, which leaves none"),
        ({"weight": 1e-9}, r"data\.sources\[1\]\.weight: 1e-09 of all rows is less than one of 1,000,000"),
    ):
        with pytest.raises(RecipeError, match=message):
            open_rows(mixed(tmp_path, {}, own))
    with pytest.raises(RecipeError, match=r"data\.sources\[1\]\.path: cannot read .*there is no such file"):
        check_rows(mixed(tmp_path, {}, {"path": str(tmp_path / "no.jsonl")}))
    with pytest.raises(RecipeError, match=r"data\.valid_path: cannot read .*there is no such file"):
        check_rows(mixed(tmp_path, valid_path=str(tmp_path / "no.tar")))
    with pytest.raises(RecipeError, match=r"data\.streaming: found true, and load_data gives rows by their numbers"):
        refuse_stream(mixed(tmp_path))


def test_rows_that_are_not_streamed_are_mixed_as_before(tmp_path: Path) -> None:
    """Each has a number."""
    train, _ = open_rows(attrs.evolve(mixed(tmp_path), streaming=False))

    assert (train.n_known, train.streams) == (11, ())
