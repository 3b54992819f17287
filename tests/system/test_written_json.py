"""JSON whose numbers remember how they were written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.system.written_json import WrittenFloat, WrittenInt, explain_json, parse_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab\u00e9"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy"), inner, max_size=3),
)


@given(values)
def test_values_are_those_of_json(value: Any) -> None:
    """What Python writes is read as Python reads it, and of Python's own types."""
    text = json.dumps(value)
    found = parse_json(text)

    assert found == json.loads(text)
    assert not isinstance(found, WrittenInt | WrittenFloat)


@pytest.mark.parametrize("text", ["12.50", "1E3", "1e3", "-0.0e0", "100000000000000000000000.0"])
def test_a_number_that_python_would_write_otherwise_keeps_its_spelling(text: str) -> None:
    """It counts as the number that it is."""
    found = parse_json(f"[{text}]")[0]

    assert isinstance(found, WrittenFloat)
    assert (found.spelling, found) == (text, float(text))


def test_a_negative_zero_keeps_its_sign() -> None:
    """As an integer, which Python has no negative zero of."""
    found = parse_json("-0")

    assert isinstance(found, WrittenInt)
    assert (found.spelling, found) == ("-0", 0)


def test_more_digits_than_python_reads_are_kept() -> None:
    """As they stand."""
    found = parse_json("9" * 5000)

    assert isinstance(found, WrittenFloat)
    assert found.spelling == "9" * 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in an object"),
        ("[" * 100_000, "nested too deep"),
        (r'"\ud83d"', r"'\\ud83d' is half a character"),
        (r'{"\uD83D": 1}', r"'\\ud83d' is half a character"),
    ],
)
def test_what_no_text_can_say_is_refused(text: str, words: str) -> None:
    """With what was found."""
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_both_halves_of_a_character_are_one() -> None:
    """Only half of one is refused."""
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_an_error_names_the_place_in_the_text_itself() -> None:
    """Counted from its first character that is no gap; other errors speak for themselves."""
    with pytest.raises(json.JSONDecodeError) as caught:
        parse_json('  {"a": }')

    assert explain_json(caught.value) == "Expecting value at character 7 of it"
    assert explain_json(ValueError("the key 'a' stands twice")) == "the key 'a' stands twice"
