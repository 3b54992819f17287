"""Answers in JSON, whole and by fields."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.evaluation.measures.json_fields import json_fields, json_valid
from vlora.evaluation.prediction import Prediction

OBJECT = '{"shop": "Café", "total": 12.5}'


@pytest.mark.parametrize(
    ("expected", "answer", "value"),
    [
        (OBJECT, "{}", 1.0),
        (OBJECT, '{"a": 1}', 1.0),
        (OBJECT, ' {"a": 1}\n', 1.0),
        (OBJECT, '```json\n{"a": 1}\n```', 1.0),
        (OBJECT, 'Here it is:\n```\n{"a": 1}\n```\nDone.', 1.0),
        (OBJECT, '{"a": 1', 0.0),
        (OBJECT, "{'a': 1}", 0.0),
        (OBJECT, '{"a": NaN}', 0.0),
        (OBJECT, "", 0.0),
        (OBJECT, "null", 0.0),
        (OBJECT, "[1]", 0.0),
        ("[1]", "[1, 2]", 1.0),
        ("[1]", "{}", 0.0),
        ("cat", "3", 1.0),
        ("cat", '"猫"', 1.0),
        ("cat", "cat", 0.0),
        ("", '{"ü": "ß"}', 1.0),
        ("", "[" * 100_000, 0.0),
        ("", "{}{}", 0.0),
    ],
)
def test_json_valid(expected: str, answer: str, value: float) -> None:
    """Of the kind that is expected."""
    assert json_valid(Prediction(row="r:1", expected=expected, answer=answer)) == value


@pytest.mark.parametrize(
    ("expected", "answer", "value"),
    [
        ('{"a": 1}', '{"a": 1}', 1.0),
        ('{"a": 1}', '{"a": 1.0}', 1.0),
        ('{"a": 1}', '{"a": "1"}', 0.0),
        ('{"a": 1}', '{"a": true}', 0.0),
        ('{"a": null}', '{"a": null}', 1.0),
        ('{"a": null}', "{}", 0.0),
        ('{"a": "Café  Roma"}', '{"a": "café roma"}', 1.0),
        ('{"a": 1, "b": 2}', '{"a": 1}', 1 / 2),
        ('{"a": 1}', '{"a": 1, "b": 2}', 1 / 2),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1.0),
        ('{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1, "c": 3}}', 1 / 2),
        ('{"a": [1, 2, 3]}', '{"a": [1, 2]}', 2 / 3),
        ('{"a": [{"n": "x"}, {"n": "y"}]}', '{"a": [{"n": "x"}, {"n": "z"}]}', 1 / 2),
        ('{"a": []}', '{"a": []}', 1.0),
        ('{"a": []}', '{"a": [1]}', 0.0),
        ("{}", "{}", 1.0),
        ("{}", '{"a": 1}', 0.0),
        ("[1, 2]", "[1, 2]", 1.0),
        ('{"a": 1}', "", 0.0),
        ('{"a": 1}', "no JSON", 0.0),
        ('{"a": 1}', "3", 0.0),
        ('```json\n{"猫": "ß"}\n```', '{"猫": "SS"}', 1.0),
        ("cat", '{"a": 1}', None),
        ("3", "3", None),
        ("", "{}", None),
    ],
)
def test_json_fields(expected: str, answer: str, value: float | None) -> None:
    """The share of fields that are right, of all that either one has."""
    found = json_fields(Prediction(row="r:1", expected=expected, answer=answer))

    assert (None if found is None else found["json_fields"]) == (None if value is None else pytest.approx(value))


def test_each_field_has_its_own_value() -> None:
    """So that it shows which one a model does not read."""
    expected, answer = '{"shop": "A", "total": 3, "items": [1, 2]}', '{"shop": "a", "items": [1, 5], "tax": 1}'

    assert json_fields(Prediction(row="r:1", expected=expected, answer=answer)) == {
        "json_fields": pytest.approx(2 / 5),
        "json_fields.shop": 1.0,
        "json_fields.total": 0.0,
        "json_fields.items": 0.5,
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=2), VALUES, max_size=3), VALUES)
def test_the_same_is_right_and_all_else_is_a_share(expected: object, answer: object) -> None:
    """Whatever JSON holds."""

    def share(found: object) -> float:
        prediction = Prediction(row="r:1", expected=json.dumps(expected), answer=json.dumps(found))
        return (json_fields(prediction) or {})["json_fields"]

    assert share(expected) == 1.0
    assert 0 <= share(answer) <= 1
