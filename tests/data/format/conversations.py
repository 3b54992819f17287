"""Conversations that the tests of formats share, and what is wrong with others."""

from typing import Any

import pytest
from hypothesis import strategies as st

from vlora import Sample, format_sample
from vlora.errors import SampleError
from vlora.types import ImageSlot

ANSWER = {"role": "assistant", "content": "A cat."}


QUESTION = {"role": "user", "content": "What is it?"}


FROM_VALUE = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]


CALL = {"name": "zoom", "arguments": {"x": 3, "labels": ["é", None]}}


def problem_of(row: dict[str, Any], custom_prompt_format: str | None = None) -> str:
    with pytest.raises(SampleError) as caught:
        format_sample(row, source="rows.jsonl row 17", custom_prompt_format=custom_prompt_format)
    message = str(caught.value)

    assert message.startswith("rows.jsonl row 17: ")
    return message


def turns(*contents: Any) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": content} for role, content in zip(("user", "assistant") * 3, contents, strict=False)
    ]


def shape(sample: Sample) -> list[tuple[str, list[Any]]]:
    """Write a sample as (role, parts), each image slot as the image that stands there."""
    return [
        (turn.role, [sample.images[part.index] if isinstance(part, ImageSlot) else part for part in turn.parts])
        for turn in sample.turns
    ]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[\\"), max_size=10)


def complaint_of(row: dict[str, Any], **options: Any) -> str:
    with pytest.raises(SampleError) as caught:
        format_sample(row, source="rows.csv row 5", **options)
    message = str(caught.value)

    assert message.startswith("rows.csv row 5: ")
    assert "\n" not in message
    return message
