"""JSON within texts: parsed where it has to be or may be, and shown shortened in messages."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.data.format.json_text import WIDTH, parse_if_json, parse_json, show
from vlora.errors import SampleError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_is_parsed(value: object) -> None:
    """What JSON says comes back."""
    assert parse_json(json.dumps(value), "a value", "row 3") == value


@given(st.lists(values, max_size=3))
def test_json_that_may_be_there(value: list[object]) -> None:
    """JSON is looked for only behind the brackets that it would begin with."""
    text = f" {json.dumps(value)}"

    assert parse_if_json(text, "[") == value
    assert parse_if_json(text, "{") is None


@pytest.mark.parametrize("text", ["", " ", "[1, 2", "[not json]", "plain", '"text"'])
def test_texts_that_are_no_json(text: str) -> None:
    """Any other text is none, and no error where it may be text."""
    assert parse_if_json(text, "[{") is None


def test_json_that_has_to_be_there() -> None:
    """A text that has to be JSON is refused with the row, what was found and what is expected."""
    with pytest.raises(SampleError, match=r"^row 3: found '\[1, 2' as the tools, expected a list, or JSON of that \("):
        parse_json("[1, 2", "the tools, expected a list", "row 3")


@given(st.text())
def test_values_are_shown_shortened(text: str) -> None:
    """A message shows a value's beginning, of one length at most."""
    shown = show(text)

    assert len(shown) <= WIDTH
    assert repr(text).startswith(shown.removesuffix("...")[: WIDTH - 3])


def test_values_that_are_nested_too_deep() -> None:
    """A value that cannot be written is named as that."""
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]

    assert show(nested) == "a value that is nested too deep"
    while nested:
        nested = nested[0]  # type: ignore[assignment]
