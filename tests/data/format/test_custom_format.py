"""A custom format's parts: whole columns, columns within texts, the row's images. `test_samples.py` has whole rows."""

import json

import pytest

from vlora.data.format.custom_format import fill_row
from vlora.errors import SampleError

FORMAT = json.dumps(
    [{"role": "user", "content": ["{image}", "Is it {what}?"]}, {"role": "assistant", "content": "{a}"}]
)


def test_columns_stand_for_their_values() -> None:
    """A value that is an image's placeholder alone gives the images, one within a text its words."""
    talk = fill_row(FORMAT, {"images": ["a.png"], "what": 7, "a": "yes"}, "row 1")

    assert [message["content"] for message in talk.messages] == [[["a.png"], "Is it 7?"], "yes"]
    assert talk.used == ("what", "a")


def test_what_lacks_a_value_is_named() -> None:
    """With the columns that the row has."""
    with pytest.raises(SampleError, match=r"row 1: data.custom_prompt_format names the column 'what'"):
        fill_row(FORMAT, {"a": "yes"}, "row 1")
