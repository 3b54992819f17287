"""Columns of data sets: which names mean something, and what renaming makes of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recipe.reading import MINIMAL, problems_of
from vlora import parse_recipe
from vlora.errors import SampleError
from vlora.recipe.columns import find_mistakes, rename_columns

NAMES = st.sampled_from(["a", "b", "question", "answer"])


def test_columns_that_nothing_reads() -> None:
    """A name in data.columns that nothing reads is reported with the nearest; a format has its own names."""
    table = '[data.columns]\nimgs = "image"\ntag = "anser"\n'

    (problem,) = problems_of(MINIMAL + table, {})
    assert problem == "data.columns.tag: found 'anser', which nothing reads; did you mean 'answer'?"
    own = {"data.custom_prompt_format": '{"user": "{anser}", "assistant": "{answer}"}'}
    assert parse_recipe(MINIMAL + table, own).data.columns == {"imgs": "image", "tag": "anser"}


@pytest.mark.parametrize(
    ("columns", "prompt", "words"),
    [
        ({"imgs": "imagess"}, None, ["data.columns.imgs", "'imagess'", "did you mean 'images'"]),
        ({"notes": ""}, None, ["data.columns.notes", "''", "unused"]),
        ({"a": "question", "b": "question"}, None, ["a and b", "'question'"]),
        ({"a": "answer"}, {"tag"}, ["data.columns.a", "tag"]),
    ],
)
def test_mistakes_of_a_mapping(columns: dict[str, str], prompt: set[str] | None, words: list[str]) -> None:
    """Names that nothing reads are refused with the nearest that is read."""
    (problem,) = find_mistakes(columns, None if prompt is None else frozenset(prompt))

    assert all(word in problem for word in words)


@given(st.dictionaries(NAMES, NAMES, max_size=4), st.dictionaries(NAMES, st.integers(), max_size=5))
def test_renaming_loses_no_value(columns: dict[str, str], row: dict[str, int]) -> None:
    """A renamed row has the values of all columns that are not set aside, under the names of the mapping."""
    if len(set(columns.values())) < len(columns) or set(columns) & set(columns.values()):
        return
    if any(columns[column] in row for column in columns if column in row):
        with pytest.raises(SampleError, match=r"data\.columns maps .*set it aside"):
            rename_columns(row, columns, "row")
        return

    assert rename_columns(row, columns, "row") == {columns.get(name, name): value for name, value in row.items()}


def test_renaming_gathers_images() -> None:
    """Several columns of images become one list, in the mapping's order; a column set aside is gone."""
    row = {"left": "a.png", "right": "b.png", "depth": "c.png", "question": "what?"}
    columns = {"right": "images", "left": "images", "depth": "unused"}

    assert rename_columns(row, columns, "row") == {"question": "what?", "images": ["b.png", "a.png"]}
