"""Values of rows and the text that is learned of them."""

import datetime as dt
import decimal
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.strategies import texts
from vlora.data.values import write_text
from vlora.errors import SampleError
from vlora.system.written_json import parse_json

json_objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
spellings = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})", fullmatch=True),
    st.from_regex(r"-?(0|[1-9][0-9]{0,5})\.[0-9]{1,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"(0|[1-9][0-9]{0,5})[eE][+-]?[0-9]{1,4}", fullmatch=True),
)


@given(spellings)
def test_numbers_stay_as_they_are_written(spelling: str) -> None:
    """A number of JSON is learned as it stands in the file, and is a number all the same."""
    number = parse_json(spelling)

    assert write_text(number, "row") == spelling
    assert number == json.loads(spelling)


@given(st.lists(json_objects, max_size=3) | st.dictionaries(texts, json_objects, max_size=3))
def test_objects_are_json(value: Any) -> None:
    """Objects and lists are written as JSON that says what the file said, its characters as they are."""
    written = json.dumps(value, ensure_ascii=False)

    assert write_text(parse_json(json.dumps(value)), "row") == written
    assert write_text(parse_json(written), "row") == written


@given(texts)
def test_text_is_learned_as_it_is(text: str) -> None:
    """Nothing is read into a string: neither dates nor JSON."""
    assert write_text(parse_json(json.dumps(text)), "row") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (np.bool_(0), "false"),
        (12, "12"),
        (np.int8(-3), "-3"),
        (3.0, "3.0"),
        (np.float32(0.1), "0.1"),
        (decimal.Decimal("12.50"), "12.50"),
        (decimal.Decimal("1E+3"), "1000"),
        (dt.date(2024, 3, 5), "2024-03-05"),
        (dt.time(10, 20), "10:20:00"),
        (dt.datetime(2024, 3, 5, 10, 20, tzinfo=dt.UTC), "2024-03-05T10:20:00+00:00"),
        (pd.Timestamp(1), "1970-01-01T00:00:00.000000001"),
        (
            {"when": dt.date(2024, 3, 5), "sum": decimal.Decimal("1.20"), "to": None},
            '{"when": "2024-03-05", "sum": 1.20, "to": null}',
        ),
        (
            parse_json('[1.50, {"é": [true, null, 12345678901234567890123]}]'),
            '[1.50, {"é": [true, null, 12345678901234567890123]}]',
        ),
        (parse_json("1" * 5000), "1" * 5000),
        (parse_json("1e999"), "1e999"),
    ],
)
def test_typed_values(value: Any, text: str) -> None:
    """Every type has its rule."""
    assert write_text(value, "row") == text


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "nothing"),
        (b"text", "bytes"),
        ([b"text"], "bytes"),
        (math.nan, "number nan"),
        *((parse_json(text), "number") for text in ("NaN", "Infinity", "-Infinity", '{"a": [NaN]}')),
        (np.float32("inf"), "number inf"),
        (decimal.Decimal("nan"), "number NaN"),
        (pd.NaT, "NaTType"),
        (np.zeros(2), "ndarray"),
        (dt.timedelta(1), "timedelta"),
        (Image.new("L", (1, 1)), "Image"),
        ({"bytes": None, "path": "a.png"}, "an image or another file"),
        ([{"bytes": b"", "path": None}], "an image or another file"),
    ],
)
def test_what_is_no_text_is_refused(value: Any, found: str) -> None:
    """Nothing is learned by its name in Python; the error names the row, the column and the type."""
    with pytest.raises(SampleError, match=rf"^row 3: column 'answer': found .*{found}.*, expected text"):
        write_text(value, "row 3: column 'answer'")


def test_what_is_nested_too_deep_is_refused() -> None:
    """Depth ends neither the reading nor the writing in a traceback."""
    with pytest.raises(ValueError, match="too deep"):
        parse_json("[" * 100_000 + "]" * 100_000)
    value: Any = "a"
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SampleError, match="too deep"):
        write_text(value, "row")


@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"a": 1, "a": 2}', "'a' stands twice"), ('[{"b": {"c": 1, "c": 1}}]', "'c' stands twice")],
)
def test_a_key_that_stands_twice_is_refused(text: str, problem: str) -> None:
    """Of two values under one name neither is dropped in silence."""
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_half_a_character_is_refused() -> None:
    """A whole pair of code units is a character; half of one is no text."""
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    with pytest.raises(ValueError, match=r"\\ud83d.* is half a character"):
        parse_json('{"a": ["\\ud83d"]}')
