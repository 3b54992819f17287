"""`format_sample`: every layout that is accepted, every complaint, and that nothing is lost or changed."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.format.conversations import ANSWER, CALL, FROM_VALUE, QUESTION, problem_of, shape, turns
from vlora import format_sample
from vlora.errors import SampleError

ONE_IMAGE = [("user", ["a.png", "What is it?"]), ("assistant", ["A cat."])]


TEXT_ONLY = [("user", ["What is it?"]), ("assistant", ["A cat."])]


LAYOUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "messages, role and content": ({"messages": [QUESTION, ANSWER]}, TEXT_ONLY),
    "conversations, from and value": ({"conversations": FROM_VALUE}, TEXT_ONLY),
    "conversations, role and content": ({"conversations": [QUESTION, ANSWER]}, TEXT_ONLY),
    "messages, from and value": ({"messages": FROM_VALUE}, TEXT_ONLY),
    "conversation": ({"conversation": FROM_VALUE}, TEXT_ONLY),
    "both spellings, filled with None by Arrow": (
        {
            "messages": [
                {"role": None, "content": None, "from": "human", "value": "What is it?"},
                {"role": "assistant", "content": "A cat.", "from": None, "value": None},
            ]
        },
        TEXT_ONLY,
    ),
    "messages as JSON text": ({"messages": json.dumps([QUESTION, ANSWER])}, TEXT_ONLY),
    "messages as one object": ({"messages": {"user": "What is it?", "assistant": "A cat."}}, TEXT_ONLY),
    "other columns are ignored": ({"id": 3, "messages": [QUESTION, ANSWER], "images": None, "image": None}, TEXT_ONLY),
    "no images": ({"images": [], "messages": [QUESTION, ANSWER]}, TEXT_ONLY),
    "question and answer": ({"question": "What is it?", "answer": "A cat."}, TEXT_ONLY),
    "question, answer and image": ({"question": "What is it?", "answer": "A cat.", "image": "a.png"}, ONE_IMAGE),
    "question, answer and images": ({"question": "What is it?", "answer": "A cat.", "images": ["a.png"]}, ONE_IMAGE),
    "question, answer and several images": (
        {"question": "What is it?", "answer": "A cat.", "images": ["a.png", "b.png"]},
        [("user", ["a.png", "b.png", "What is it?"]), ("assistant", ["A cat."])],
    ),
    "question and answer that are numbers": (
        {"question": 3, "answer": 0},
        [("user", ["3"]), ("assistant", ["0"])],
    ),
    "image beside messages": ({"image": "a.png", "messages": [QUESTION, ANSWER]}, ONE_IMAGE),
    "images beside messages": ({"images": ["a.png"], "messages": [QUESTION, ANSWER]}, ONE_IMAGE),
    "images beside messages, None among them": ({"images": [None, "a.png"], "messages": [QUESTION, ANSWER]}, ONE_IMAGE),
    "images in both columns": (
        {"images": ["a.png"], "image": "a.png", "messages": [QUESTION, ANSWER]},
        ONE_IMAGE,
    ),
    "bytes and path": (
        {"image": {"bytes": b"x", "path": None}, "messages": [QUESTION, ANSWER]},
        [("user", [{"bytes": b"x", "path": None}, "What is it?"]), ("assistant", ["A cat."])],
    ),
    "images go to the first user turn": (
        {"image": "a.png", "messages": [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]},
        [("system", ["Be brief."]), *ONE_IMAGE],
    ),
    "tags with their position": (
        {
            "images": ["a.png", "b.png"],
            "conversations": [
                {"from": "human", "value": "<image>\nBefore.<image> After."},
                {"from": "gpt", "value": "A cat."},
            ],
        },
        [("user", ["a.png", "\nBefore.", "b.png", " After."]), ("assistant", ["A cat."])],
    ),
    "tags in several turns": (
        {
            "images": ["a.png", "b.png"],
            "messages": [
                {"role": "user", "content": "First <image>"},
                ANSWER,
                {"role": "user", "content": "<image>"},
                ANSWER,
            ],
        },
        [("user", ["First ", "a.png"]), ("assistant", ["A cat."]), ("user", ["b.png"]), ("assistant", ["A cat."])],
    ),
    "tags inside text parts": (
        {
            "images": ["a.png"],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Look: <image> What is it?"}]}, ANSWER],
        },
        [("user", ["Look: ", "a.png", " What is it?"]), ("assistant", ["A cat."])],
    ),
    "TRL: image parts without images": (
        {
            "images": ["a.png"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ],
        },
        ONE_IMAGE,
    ),
    "TRL, filled with None by Arrow": (
        {
            "images": [{"bytes": b"x", "path": None}],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "text": None}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ],
        },
        [("user", ["What is it?", {"bytes": b"x", "path": None}]), ("assistant", ["A cat."])],
    ),
    "OpenAI: image_url": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
                        {"type": "text", "text": "What is it?"},
                    ],
                },
                ANSWER,
            ]
        },
        ONE_IMAGE,
    ),
    "OpenAI: image_url as a string": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}, "What is it?"]},
                ANSWER,
            ]
        },
        ONE_IMAGE,
    ),
    "OpenAI responses": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": "a.png"},
                        {"type": "input_text", "text": "What is it?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "A cat."}]},
            ]
        },
        ONE_IMAGE,
    ),
    "OpenAI, filled with None by Arrow": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.png"}, "text": None},
                        {"type": "text", "image_url": None, "text": "What is it?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "image_url": None, "text": "A cat."}]},
            ]
        },
        ONE_IMAGE,
    ),
    "Qwen: images inside the content": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}],
                },
                ANSWER,
            ]
        },
        ONE_IMAGE,
    ),
    "the same images in content and column": (
        {
            "images": ["a.png"],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}],
                },
                ANSWER,
            ],
        },
        ONE_IMAGE,
    ),
    "several images in one part": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": ["a.png", "b.png"]}, {"text": "Compare."}]},
                ANSWER,
            ]
        },
        [("user", ["a.png", "b.png", "Compare."]), ("assistant", ["A cat."])],
    ),
    "Pixtral: text under content": (
        {
            "image": "a.png",
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "content": "What is it?"}]},
                {"role": "assistant", "content": [{"type": "text", "content": "A cat.", "text": None}]},
            ],
        },
        ONE_IMAGE,
    ),
    "one part, not in a list": (
        {"messages": [{"role": "user", "content": {"type": "text", "text": "What is it?"}}, ANSWER]},
        TEXT_ONLY,
    ),
    "Deepseek: its roles, images in the message": (
        {
            "messages": [
                {"role": "<|User|>", "content": "<image>\nWhat is it?", "images": ["a.png"]},
                {"role": "<|Assistant|>", "content": "A cat."},
            ]
        },
        [("user", ["a.png", "\nWhat is it?"]), ("assistant", ["A cat."])],
    ),
    "Deepseek: the row repeats the message's images": (
        {
            "images": ["a.png"],
            "messages": [
                {"role": "<|User|>", "content": "<image>\nWhat is it?", "images": ["a.png"]},
                {"role": "<|Assistant|>", "content": "A cat.", "images": None},
            ],
        },
        [("user", ["a.png", "\nWhat is it?"]), ("assistant", ["A cat."])],
    ),
    "Deepseek: images without markers stand at the start of their own message": (
        {
            "messages": [
                {"role": "<|User|>", "content": "First.", "images": ["a.png"]},
                {"role": "<|Assistant|>", "content": "A cat."},
                {"role": "<|User|>", "content": "Second.", "images": ["b.png", "c.png"]},
                {"role": "<|Assistant|>", "content": "A dog."},
            ]
        },
        [
            ("user", ["a.png", "First."]),
            ("assistant", ["A cat."]),
            ("user", ["b.png", "c.png", "Second."]),
            ("assistant", ["A dog."]),
        ],
    ),
    "Deepseek: one image, not in a list": (
        {
            "messages": [
                {"role": "<|User|>", "content": "<image>What is it?", "images": "a.png"},
                {"role": "<|Assistant|>", "content": "A cat."},
            ]
        },
        ONE_IMAGE,
    ),
    "empty parts vanish": (
        {"messages": [{"role": "user", "content": ["", "What ", "is it?"]}, ANSWER]},
        TEXT_ONLY,
    ),
    "a question that is empty beside an image": (
        {"image": "a.png", "question": "", "answer": "A cat."},
        [("user", ["a.png"]), ("assistant", ["A cat."])],
    ),
    "a prompt that is empty": ({"prompt": "", "completion": "A cat."}, [("user", []), ("assistant", ["A cat."])]),
    "multi-turn with an empty answer": (
        {"messages": [QUESTION, {"role": "assistant", "content": ""}, QUESTION, ANSWER]},
        [("user", ["What is it?"]), ("assistant", []), *TEXT_ONLY],
    ),
    "a tool's turn": (
        {"messages": [QUESTION, {"role": "tool", "content": "cat"}, ANSWER]},
        [("user", ["What is it?"]), ("tool", ["cat"]), ("assistant", ["A cat."])],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout: str) -> None:
    """Every accepted layout gives the same turns, with images where they stand, and leaves the row as it was."""
    row, expected = LAYOUTS[layout]
    before = copy.deepcopy(row)

    sample = format_sample(row, source="rows row 3")

    assert shape(sample) == expected
    assert sample.source == "rows row 3"
    assert row == before


CUSTOM: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "columns": (
        {"user": "{question} ({hint})", "assistant": "{answer}"},
        {"question": "What?", "answer": "A cat.", "hint": "small"},
        [("user", ["What? (small)"]), ("assistant", ["A cat."])],
    ),
    "image within a text": (
        {"user": "{image}\n{question}", "assistant": "{answer}"},
        {"question": "What?", "answer": "A cat.", "image": "a.png"},
        [("user", ["a.png", "\nWhat?"]), ("assistant", ["A cat."])],
    ),
    "image of a row without one": (
        {"user": "{image}\n{question}", "assistant": "{answer}"},
        {"question": "What?", "answer": "A cat.", "image": None},
        [("user", ["\nWhat?"]), ("assistant", ["A cat."])],
    ),
    "parts": (
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": "{image}"}, {"type": "text", "text": "{question}"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "{answer}"}]},
        ],
        {"question": "What?", "answer": "A cat.", "images": ["a.png", "b.png"]},
        [("user", ["a.png", "b.png", "What?"]), ("assistant", ["A cat."])],
    ),
    "parts of a text-only row": (
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": "{image}"}, {"type": "text", "text": "{question}"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "{answer}"}]},
        ],
        {"question": "What?", "answer": "A cat.", "images": []},
        [("user", ["What?"]), ("assistant", ["A cat."])],
    ),
    "object of lists": (
        {"user": [{"type": "image", "image": "{image}"}, "{question}"], "assistant": ["{answer}"]},
        {"question": "What?", "answer": 7, "image": "a.png"},
        [("user", ["a.png", "What?"]), ("assistant", ["7"])],
    ),
    "braces that are no column's": (
        {"user": '{question} Answer as {"a": 1}.', "assistant": "{answer}"},
        {"question": "What?", "answer": "{}"},
        [("user", ['What? Answer as {"a": 1}.']), ("assistant", ["{}"])],
    ),
    "columns' braces are not filled again": (
        {"user": "{question}", "assistant": "{answer}"},
        {"question": "What is {answer}?", "answer": "It is {question}"},
        [("user", ["What is {answer}?"]), ("assistant", ["It is {question}"])],
    ),
    "instead of the row's messages": (
        {"user": "{caption}?", "assistant": "{caption}"},
        {"messages": [QUESTION, ANSWER], "caption": "A cat"},
        [("user", ["A cat?"]), ("assistant", ["A cat"])],
    ),
}


@pytest.mark.parametrize("case", CUSTOM)
def test_custom_prompt_format(case: str) -> None:
    """A custom format fills in columns and images, and leaves the row as it was."""
    template, row, expected = CUSTOM[case]
    before = copy.deepcopy(row)

    assert shape(format_sample(row, custom_prompt_format=json.dumps(template))) == expected
    assert row == before


def test_numbers_of_a_custom_format() -> None:
    """A number of a format is text as it is written there."""
    written = '{"user": 12.50, "assistant": 0.12345678901234567890}'

    assert shape(format_sample({"caption": "A cat"}, custom_prompt_format=written)) == [
        ("user", ["12.50"]),
        ("assistant", ["0.12345678901234567890"]),
    ]


ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no conversation": ({"text": "x", "label": 3}, ["text, label", "data.custom_prompt_format"]),
    "half a question": ({"question": "What?", "answer": None}, ["column 'answer' has no value beside 'question'"]),
    "a caption without an image": (
        {"caption": "A cat.", "image": None},
        ["'caption' is the answer to an image", "there is none"],
    ),
    "a number of a part that no image has": (
        {"images": ["a"], "messages": [{"role": "user", "content": [{"type": "image", "index": 1}]}, ANSWER]},
        ["an image part has no image", "hold 1"],
    ),
    "an answer that is an image of the row": (
        {"images": ["a"], "messages": [QUESTION, {"role": "assistant", "content": [{"type": "image", "index": 0}]}]},
        ["turns have no text"],
    ),
    "messages that are no JSON": ({"messages": "What?"}, ["'What?'"]),
    "a caption that is empty": ({"image": "a", "caption": ""}, ["image, caption", "'caption' has no value beside the"]),
    "a class that is empty": ({"image": "a", "label": None}, ["'label' has no value beside the image"]),
    "a row of empty cells": ({"image": None, "label": "", "note": ""}, ["none of them has a value"]),
    "no messages": ({"messages": []}, ["columns messages hold no conversation"]),
    "messages of another type": ({"messages": 3}, ["3", "list of messages"]),
    "a message of another type": ({"messages": ["What?"]}, ["'What?'", "role"]),
    "unknown role": ({"messages": [{"role": "narrator", "content": "x"}]}, ["'narrator'", "assistant"]),
    "no role": ({"messages": [{"content": "x"}]}, ["None", "assistant"]),
    "no assistant turn": ({"messages": turns("What?")}, ["no assistant turn"]),
    "empty assistant turn": ({"messages": turns("What?", "")}, ["turns have no text"]),
    "answer of spaces": (
        {"question": "How deep?", "answer": " \t\u2003\n"},
        ["turns have no text", "leave the row out"],
    ),
    "caption of spaces": ({"image": "reef.png", "caption": "  "}, ["turns have no text"]),
    "parts of spaces": ({"messages": turns("What?", [{"type": "text", "text": "\u00a0"}])}, ["turns have no text"]),
    "only a blank turn is learned": (
        {"messages": [QUESTION, {**ANSWER, "loss": 0}, QUESTION, {"role": "assistant", "content": " "}]},
        ["turns that are learned have no text"],
    ),
    "content of another type": ({"messages": turns(b"3")}, ["3", "text or a list"]),
    "tag without an image": ({"messages": turns("<image>What?", "x")}, ["<image>", "0"]),
    "more tags than images": ({"images": ["a"], "messages": turns("<image><image>", "x")}, ["<image>", "1"]),
    "fewer tags than images": ({"images": ["a", "b"], "messages": turns("<image>", "x")}, ["1 of 2"]),
    "image part without an image": ({"messages": turns([{"type": "image"}], "x")}, ["image part"]),
    "text part without text": ({"messages": turns([{"type": "text", "text": 3}], "x")}, ["'text'"]),
    "video": ({"messages": turns([{"type": "video", "video": "v"}], "x")}, ["'video'"]),
    "images and no user turn": ({"image": "a", "messages": [ANSWER]}, ["no user turn"]),
    "some of a message's images without a tag": (
        {"messages": [{"role": "user", "content": "<image>", "images": ["a", "b"]}, ANSWER]},
        ["1 of 2"],
    ),
}


def test_system_column() -> None:
    """A system prompt in a column of its own is the first turn; one that the conversation has too is the same."""
    prompt = {"role": "developer", "content": "Be brief."}

    for messages in ([QUESTION, ANSWER], [prompt, QUESTION, ANSWER]):
        sample = format_sample({"messages": messages, "system": "Be brief.", "image": "a.png"})

        assert shape(sample) == [("system", ["Be brief."]), *ONE_IMAGE]
    assert shape(format_sample({"messages": [QUESTION, ANSWER], "system": ""})) == TEXT_ONLY


ERRORS |= {
    "a weight between": ({"messages": [QUESTION, {**ANSWER, "weight": 0.5}]}, ["turn 2", "'weight'", "0.5", "0 or"]),
    "a mark as text": ({"messages": [QUESTION, {**ANSWER, "train": "no"}]}, ["turn 2", "'train'", "'no'"]),
    "marks that differ": ({"messages": [QUESTION, {**ANSWER, "train": 0, "loss": 1}]}, ["'loss' and 'train'"]),
    "another such mark": ({"messages": [QUESTION, {**ANSWER, "masked": False}]}, ["'masked'", "'loss'"]),
    "a mark that may mean either": ({"messages": [QUESTION, {**ANSWER, "mask": 1}]}, ["'mask'", "'loss'"]),
    "a thought of the user": (
        {"messages": [{**QUESTION, "thinking": "Hm."}, ANSWER]},
        ["turn 1", "only the"],
    ),
    "a thought that is none": ({"messages": [QUESTION, {**ANSWER, "thinking": True}]}, ["'thinking'", "True"]),
    "thoughts that differ": (
        {"messages": [QUESTION, {**ANSWER, "thinking": "a", "reasoning": "b"}]},
        ["'reasoning' and 'thinking'"],
    ),
    "a call of the user": (
        {"messages": [{**QUESTION, "tool_calls": [CALL]}, ANSWER]},
        ["turn 1", "only the"],
    ),
    "a call without a name": ({"messages": [QUESTION, {**ANSWER, "tool_calls": [{"arguments": {}}]}]}, ["name"]),
    "calls in both layouts": (
        {"messages": [QUESTION, {**ANSWER, "tool_calls": [CALL], "function_call": CALL}]},
        ["'tool_calls' and 'function_call'"],
    ),
    "calls that are no JSON": ({"messages": [QUESTION, {**ANSWER, "tool_calls": "zoom(3)"}]}, ["'zoom(3)'", "calls"]),
    "arguments that are no JSON": (
        {"messages": [QUESTION, {**ANSWER, "tool_calls": [{"name": "zoom", "arguments": "x=3"}]}]},
        ["'x=3'", "'zoom'"],
    ),
    "arguments that are a list": (
        {"messages": [QUESTION, {**ANSWER, "tool_calls": [{"name": "zoom", "arguments": [3]}]}]},
        ["[3]", "'zoom'"],
    ),
    "an answer that was not understood": (
        {"messages": [QUESTION, {"role": "assistant", "text": "A cat."}]},
        ["turn 2", "role, text"],
    ),
    "a call and nothing that holds it": ({"messages": [QUESTION, {"role": "assistant", "content": None}]}, ["turn 2"]),
    "tools that are no JSON": ({"messages": [QUESTION, ANSWER], "tools": "zoom"}, ["'zoom'", "tools"]),
    "a tool without a name": ({"messages": [QUESTION, ANSWER], "tools": [{"x": 1}]}, ["'x'", "name"]),
    "two system prompts": (
        {"messages": [{"role": "system", "content": "a"}, QUESTION, ANSWER], "system": "b"},
        ["'system'"],
    ),
    "a system prompt that is no text": ({"messages": [QUESTION, ANSWER], "system": 3}, ["'system'", "3"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case: str) -> None:
    """A row that is no conversation is refused; the message names the row and what was found."""
    row, words = ERRORS[case]

    message = problem_of(row)

    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("row", "word"),
    [({"question": "What?"}, "'answer'"), ({"question": "What?", "answer": None}, "'answer'")],
)
def test_custom_format_names_the_column(row: dict[str, Any], word: str) -> None:
    """A custom format whose column is missing or empty names it."""
    message = problem_of(row, json.dumps({"user": "{question}", "assistant": "{answer}"}))

    assert word in message
    assert "data.custom_prompt_format" in message


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "image", "images", "image_url"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "conversations", "question", "answer", "image", "images"]), json_like, max_size=4
    )
)
def test_nonsense_is_a_sample_error(row: dict[str, Any]) -> None:
    """Whatever a row holds, it is a sample or a `SampleError`, never another exception."""
    try:
        sample = format_sample(row)
    except SampleError:
        return

    assert any(turn.role == "assistant" for turn in sample.turns)
