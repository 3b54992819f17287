"""Where records of files are: lines, records with quotes, members of documents, found without reading any."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.readers.record_spans import Spans, find_lines, find_members, find_records, split_record

cells = st.text(st.sampled_from('ab",\n é'), max_size=6)


def as_bytes(text: str) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Give a text as a file has it."""
    return np.frombuffer(text.encode(), dtype=np.uint8)


def texts_of(text: str, spans: Spans) -> list[str]:
    """Cut the spans out of a text."""
    return [text.encode()[start:end].decode() for start, end in zip(spans.starts, spans.ends, strict=True)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1), min_size=1))
def test_lines(lines: list[str]) -> None:
    """Every line is a span, without its end."""
    text = "\n".join(lines)
    data = as_bytes(text)

    assert texts_of(text, find_lines(data, 0, len(data))) == lines


@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=6))
def test_records_are_those_of_csv(rows: list[list[str]]) -> None:
    """Records with quoted separators and line ends are found and split as Python's `csv` reads them."""
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    text = stream.getvalue().removesuffix("\n")
    data = as_bytes(text)
    records = texts_of(text, find_records(data, 0, len(data), ord(",")))

    assert [split_record(record, ",") for record in records] == rows


def test_a_quote_that_is_never_closed() -> None:
    """The error has the place where the quote begins."""
    data = as_bytes('a,b\n1,"2\n3,4')
    with pytest.raises(ValueError, match="quote") as caught:
        find_records(data, 0, len(data), ord(","))

    assert caught.value.args[1] == 6


def test_values_behind_a_closed_quote() -> None:
    """What goes on behind the quote that closes a value is refused where it would be lost."""
    assert split_record('"a" b,c', ",") == ["a b", "c"]
    with pytest.raises(ValueError, match="quote"):
        split_record('"a" b,c', ",", is_strict=True)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3), min_size=1))
def test_members_of_a_list(rows: list[dict[str, object]]) -> None:
    """The members of a list of objects are found, whatever brackets and commas their texts hold."""
    text = json.dumps(rows, ensure_ascii=False)
    data = as_bytes(text)
    document = find_members(data, 0, len(data))

    assert document.is_list
    assert [json.loads(member) for member in texts_of(text, document.members)] == rows


def test_lists_of_an_object() -> None:
    """Lists under an object's keys are found by the number of their key."""
    text = json.dumps({"version": 1, "data": [{"a": 1}, {"a": 2}], "empty": []})
    data = as_bytes(text)
    document = find_members(data, 0, len(data))

    assert not document.is_list
    assert [json.loads(member) for member in texts_of(text, document.lists[1])] == [{"a": 1}, {"a": 2}]
    assert len(document.lists[2].starts) == 0
