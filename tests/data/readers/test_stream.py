"""Streams: rows in the order of files, places by which they are read again, files that cannot be read any further."""

from pathlib import Path

import attrs
import pytest

from tests.data.streams import open_files, write_lines
from vlora.data.readers.stream import DAMAGED, Drawn
from vlora.errors import SampleError


def answers(stream: object, rows: list[Drawn]) -> list[str]:
    """Read the answers of rows."""
    return [stream.read(row)["answer"] for row in rows]  # type: ignore[attr-defined]


def test_files_are_read_in_an_order_and_from_any_row_on(tmp_path: Path) -> None:
    """Behind each row the rest of its file and the files after it follow."""
    stream = open_files(write_lines(tmp_path, (2, 3, 1)))
    order = [2, 0, 1]
    rows = list(stream.find(order))

    assert answers(stream, rows) == [f"It is {number}." for number in (5, 0, 1, 2, 3, 4)]
    for place, row in enumerate(rows):
        assert list(stream.find(order, row.place)) == rows[place + 1 :]
    assert stream.restore([row.place for row in rows]) == rows


def test_orders_of_files_belong_to_seed_and_epoch(tmp_path: Path) -> None:
    """They are permutations, and the order of names where nothing is shuffled."""
    stream = open_files(write_lines(tmp_path, (1,) * 9))
    orders = [stream.order(seed=seed, epoch=epoch, shuffle=True) for seed, epoch in ((0, 0), (0, 1), (1, 0))]

    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert stream.order(seed=0, epoch=3, shuffle=False) == list(range(9))


def test_first_rows_may_be_left_out(tmp_path: Path) -> None:
    """In whichever order the files are read."""
    stream = open_files(write_lines(tmp_path, (2, 3, 2)))
    held_out = stream.head(4)
    rest = attrs.evolve(stream, first=stream.head(5)[4])

    assert answers(rest, list(rest.find([2, 1, 0]))) == ["It is 5.", "It is 6.", "It is 4."]
    assert answers(rest, [Drawn(place) for place in held_out]) == [f"It is {number}." for number in range(4)]
    assert attrs.evolve(rest, first=None).head(2) == held_out[:2]


def test_a_file_that_cannot_be_read_any_further_is_one_bad_row(tmp_path: Path) -> None:
    """The files behind it are read; the row's error says which file it is, and is there again behind a restart."""
    path = write_lines(tmp_path, (2, 2, 2))
    (tmp_path / "rows-1.jsonl").write_bytes(b"\xff\xfe" + "{}".encode("utf-16-le"))
    stream = open_files(path)
    rows = list(stream.find([0, 1, 2]))
    bad = rows[2]

    assert [row.place.shard for row in rows] == [0, 0, 1, 2, 2]
    assert bad.place.offset == DAMAGED
    with pytest.raises(SampleError, match=r"rows-1\.jsonl cannot be read from here on: the file is UTF-16"):
        stream.read(bad)
    with pytest.raises(SampleError, match=r"rows-1\.jsonl cannot be read from here on: the file is UTF-16"):
        stream.read(stream.restore([bad.place])[0])
    assert list(stream.find([0, 1, 2], bad.place)) == rows[3:]


def test_marks_change_with_the_files(tmp_path: Path) -> None:
    """With their names, sizes and times."""
    path = write_lines(tmp_path, (2, 2))
    before = open_files(path)
    marks = [before.mark(shard) for shard in range(2)]
    with (tmp_path / "rows-1.jsonl").open("a") as file:
        file.write("{}\n")
    after = open_files(path)

    assert after.mark(0) == marks[0]
    assert after.mark(1) != marks[1]
    assert after.fingerprint() == before.fingerprint()
    (tmp_path / "rows-2.jsonl").write_text("{}")
    assert open_files(path).fingerprint() != before.fingerprint()
