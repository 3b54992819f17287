"""Rows of streams by the number of rows drawn before: read, named, known by their files, forgotten."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.streams import open_files, write_lines
from vlora.data.drawn_rows import draw_rows
from vlora.data.mixed_rows import mix_rows
from vlora.data.rows import RowDataset


def head(folder: Path, counts: tuple[int, ...], first: int = 0) -> RowDataset:
    """Give the rows of a stream, of which none has a number."""
    stream = open_files(write_lines(folder, counts, first=first))
    return RowDataset(name=folder.name, table=[], indices=(), stream=stream)


def test_rows_of_one_stream(tmp_path: Path) -> None:
    """They are read by any number that they were given, until they are dropped."""
    rows = head(tmp_path / "a", (2, 4))
    drawn = draw_rows(rows)
    (stream,) = rows.streams
    drawn.put(5, 0, list(stream.find([1]))[3])

    assert (drawn.weights, len(drawn), drawn.streams) == (None, 1, [stream])
    assert drawn.rows[5].turns[-1].text == "It is 5."
    assert drawn.rows[5].source == "rows-1.jsonl row 3"
    assert drawn.mark(5) == stream.mark(1)
    drawn.drop([5])
    with pytest.raises(KeyError):
        drawn.rows[5]
    assert len(drawn) == 0


def test_what_was_kept_of_a_row_is_given_up(tmp_path: Path) -> None:
    """After as many reads as are expected; without one, at once. Then the row is read from its file."""
    rows = head(tmp_path / "a", (2,))
    drawn = draw_rows(rows)
    (stream,) = rows.streams
    for index, found in enumerate(stream.find([0])):
        kept = {"question": "What is it?", "answer": f"Kept {index}."}
        drawn.put(index, 0, found._replace(kept=json.dumps(kept).encode()))
    drawn.expect(0, 2)
    drawn.expect(1, 0)

    assert [drawn.rows[0].turns[-1].text for _ in range(3)] == ["Kept 0.", "Kept 0.", "It is 0."]
    assert drawn.rows[1].turns[-1].text == "It is 1."


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(1, 30), st.integers(1, 5))
def test_rows_that_others_are_joined_to_stay(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n_rows: int, n_joined: int
) -> None:
    """A row can be read as long as one of those drawn next is not given up; in the end the last ones are left."""
    drawn = draw_rows(head(tmp_path_factory.mktemp("rows"), (n_rows,)))
    drawn.n_joined = n_joined
    order, given_up = data.draw(st.permutations(range(n_rows))), set[int]()
    for index, row in enumerate(drawn.streams[0].find([0])):
        drawn.put(index, 0, row)
    for index in order:
        drawn.drop([index])
        given_up.add(index)
        for other in range(n_rows):
            is_needed = not given_up.issuperset(range(other, other + n_joined + 1))
            assert is_needed == (other in drawn.rows.table._drawn)  # type: ignore[attr-defined]
            if other not in given_up:
                assert drawn.find_before(other) == tuple(range(max(0, other - n_joined), other))[::-1]

    assert len(drawn) == min(n_rows, n_joined)
    assert len(drawn._given_up) <= 2 * n_joined


def test_a_row_is_not_joined_to_itself(tmp_path: Path) -> None:
    """As it was drawn in the epoch before."""
    drawn = draw_rows(head(tmp_path / "a", (3,)))
    drawn.n_joined = 4
    found = list(drawn.streams[0].find([0]))
    for index, row in enumerate([*found, *found[::-1]]):
        drawn.put(index, 0, row)

    assert drawn.find_before(0) == ()
    assert drawn.find_before(3) == (1, 0)
    assert drawn.find_before(5) == (4, 3, 2, 1)


def test_rows_of_several_streams(tmp_path: Path) -> None:
    """They are numbered together; their files are, too, one source after the other."""
    parts = [head(tmp_path / "a", (2, 4)), head(tmp_path / "b", (3,), first=100)]
    drawn = draw_rows(mix_rows("a + b", parts, weights=[3, 1]))
    for index, source in ((0, 1), (1, 0)):
        drawn.put(index, source, next(drawn.streams[source].find([0])))

    assert drawn.weights == (3, 1)
    assert [drawn.rows[index].turns[-1].text for index in (0, 1)] == ["It is 100.", "It is 0."]
    assert [drawn.rows.name_source(index) for index in (0, 1)] == ["b", "a"]
    assert [drawn.mark(index).index for index in (0, 1)] == [2, 0]
    assert [drawn.mark(index).digest for index in (0, 1)] == [
        parts[place].streams[0].mark(0).digest for place in (1, 0)
    ]
    assert (drawn.rows.n_known, drawn.rows.n_marks) == (None, 3)
    assert parts[0].columns().used
