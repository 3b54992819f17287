"""`format_sample`: every layout that is accepted, every complaint, and that nothing is lost or changed."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora import Sample, Turn, format_sample
from vlora.data.format.marks import IMAGE_TAG
from vlora.data.format.samples import Reading, read_sample
from vlora.errors import SampleError
from vlora.system.written_json import parse_json
from vlora.types import ImageSlot

ANSWER = {"role": "assistant", "content": "A cat."}
QUESTION = {"role": "user", "content": "What is it?"}


def shape(sample: Sample) -> list[tuple[str, list[Any]]]:
    """Write a sample as (role, parts), each image slot as the image that stands there."""
    return [
        (turn.role, [sample.images[part.index] if isinstance(part, ImageSlot) else part for part in turn.parts])
        for turn in sample.turns
    ]


def problem_of(row: dict[str, Any], custom_prompt_format: str | None = None) -> str:
    with pytest.raises(SampleError) as caught:
        format_sample(row, source="rows.jsonl row 17", custom_prompt_format=custom_prompt_format)
    message = str(caught.value)

    assert message.startswith("rows.jsonl row 17: ")
    return message


def test_parts_that_number_their_images_show_those() -> None:
    """An index counts the row's images from 0, with a size or without; where texts have one, too, it counts parts."""
    two = {"type": "image", "index": 1, "max_pixels": 900}
    content = [two, {"type": "text", "text": "Or?", "index": None}, {"type": "image", "index": 0, "text": None}]
    row = {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": content}, ANSWER]}
    sample, use = read_sample(row, "row", Reading())

    assert [getattr(image, "image", image) for image in sample.images] == ["b.png", "a.png"]
    assert sample.images[0].asked.max_pixels == 900
    assert not use.unused

    counted = [
        {"type": "image", "index": 0},
        {"type": "text", "text": "Or?", "index": 1},
        {"type": "image", "index": 2},
    ]
    row = {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": counted}, ANSWER]}
    sample, use = read_sample(row, "row", Reading())
    assert sample.images == ("a.png", "b.png")
    assert use.unused == {"messages.content.index"}


ONE_IMAGE = [("user", ["a.png", "What is it?"]), ("assistant", ["A cat."])]
TEXT_ONLY = [("user", ["What is it?"]), ("assistant", ["A cat."])]
FROM_VALUE = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]

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


@pytest.mark.parametrize("role", ["user", "human", "<|User|>", "User", " HUMAN "])
def test_user_roles(role: str) -> None:
    """The user's names in other formats are understood."""
    sample = format_sample({"messages": [{"role": role, "content": "What?"}, ANSWER]})

    assert [turn.role for turn in sample.turns] == ["user", "assistant"]


@pytest.mark.parametrize("role", ["assistant", "gpt", "model", "bot", "chatgpt", "<|Assistant|>"])
def test_assistant_roles(role: str) -> None:
    """The assistant's names in other formats are understood."""
    sample = format_sample({"messages": [QUESTION, {"role": role, "content": "Yes."}]})

    assert sample.turns[1] == Turn("assistant", ("Yes.",))


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


def turns(*contents: Any) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": content} for role, content in zip(("user", "assistant") * 3, contents, strict=False)
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
        ["no assistant turn with text"],
    ),
    "messages that are no JSON": ({"messages": "What?"}, ["'What?'"]),
    "no messages": ({"messages": []}, ["columns messages hold no conversation"]),
    "messages of another type": ({"messages": 3}, ["3", "list of messages"]),
    "a message of another type": ({"messages": ["What?"]}, ["'What?'", "role"]),
    "unknown role": ({"messages": [{"role": "narrator", "content": "x"}]}, ["'narrator'", "assistant"]),
    "no role": ({"messages": [{"content": "x"}]}, ["None", "assistant"]),
    "no assistant turn": ({"messages": turns("What?")}, ["no assistant turn"]),
    "empty assistant turn": ({"messages": turns("What?", "")}, ["no assistant turn"]),
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


CALL = {"name": "zoom", "arguments": {"x": 3, "labels": ["é", None]}}
WITH_CALLS = {
    "OpenAI": {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": CALL}]},
    "arguments as JSON": {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "zoom", "arguments": json.dumps(CALL["arguments"])}}],
    },
    "bare, as JSON": {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
    "OpenAI's first layout": {"role": "assistant", "content": None, "function_call": CALL},
    "LLaMA-Factory": {"from": "function_call", "value": json.dumps(CALL)},
    "LLaMA-Factory, a list": {"from": "function_call", "value": json.dumps([CALL])},
    "Swift": {"role": "tool_call", "content": json.dumps(CALL)},
}


@pytest.mark.parametrize("case", WITH_CALLS)
def test_calls(case: str) -> None:
    """A tool's call is read with its name and its arguments, whatever the layout; its answer is the tool's turn."""
    messages = [QUESTION, WITH_CALLS[case], {"role": "observation", "content": "42"}, ANSWER]

    sample = format_sample({"messages": messages})

    expected = {**CALL, "id": "a"} if case == "OpenAI" else CALL
    assert sample.turns[1] == Turn("assistant", (), calls=(expected,))
    assert sample.turns[2] == Turn("tool", ("42",))


def test_call_without_arguments() -> None:
    """A call may have no arguments, and what is said beside it stays."""
    message = {"role": "assistant", "content": "Let me look.", "tool_calls": [{"function": {"name": "look"}}]}

    sample = format_sample({"messages": [QUESTION, message]})

    assert sample.turns[1] == Turn("assistant", ("Let me look.",), calls=({"name": "look", "arguments": {}},))


@pytest.mark.parametrize("text", ["{}", "zoom(3)", '{"x": 3}', "[1]"])
def test_function_call_of_another_format_is_text(text: str) -> None:
    """What the role function_call writes in a format of its own is an answer as it is written."""
    sample = format_sample({"conversations": [*FROM_VALUE[:1], {"from": "function_call", "value": text}]})

    assert sample.turns[1] == Turn("assistant", (text,))


TOOL = {"type": "function", "function": {"name": "zoom", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "tools",
    [[TOOL], TOOL, json.dumps([TOOL]), json.dumps(TOOL), [json.dumps(TOOL)], [TOOL["function"]]],
    ids=["list", "one", "JSON of a list", "JSON of one", "list of JSON", "bare"],
)
def test_tools(tools: Any) -> None:
    """Descriptions of tools come as chat templates take them."""
    assert format_sample({"messages": [QUESTION, ANSWER], "tools": tools}).tools == (TOOL,)


@pytest.mark.parametrize("tools", [None, [], "", "[]"])
def test_no_tools(tools: Any) -> None:
    """A row may have the column and no tools."""
    assert format_sample({"messages": [QUESTION, ANSWER], "tools": tools}).tools == ()


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thought(key: str) -> None:
    """What the assistant thinks stands apart from what it answers."""
    sample = format_sample({"messages": [QUESTION, {**ANSWER, key: "Whiskers, so."}, QUESTION, {**ANSWER, key: ""}]})

    assert sample.turns[1] == Turn("assistant", ("A cat.",), thought="Whiskers, so.")
    assert sample.turns[3] == Turn("assistant", ("A cat.",))


@pytest.mark.parametrize("kind", ["thinking", "reasoning"])
def test_a_thought_may_be_a_part(kind: str) -> None:
    """So do contents that are lists say what comes before the answer; what else the part holds is named."""
    said = {"type": "text", "text": "A cat."}
    part = {"type": kind, kind: "Whiskers, so.", "signature": "x"}
    row = {"messages": [QUESTION, {"role": "assistant", "content": [part, said]}]}
    sample, use = read_sample(row, "row", Reading())

    assert sample.turns[1] == Turn("assistant", ("A cat.",), thought="Whiskers, so.")
    assert use.unused == {"messages.content.signature"}
    for content, problem in (
        ([said, part], "behind or between"),
        ([part, said, part], "behind or between"),
        ([{"type": kind, kind: 3}, said], "expected a text"),
    ):
        assert problem in problem_of({"messages": [QUESTION, {"role": "assistant", "content": content}]})


@pytest.mark.parametrize("key", ["loss", "loss_mask", "loss_scale", "weight", "train", "training", "trainable"])
@pytest.mark.parametrize(("mark", "is_learned"), [(0, False), (False, False), (0.0, False), (1, True), (True, True)])
def test_marks(key: str, mark: Any, is_learned: bool) -> None:
    """A message may say whether its turn is learned; one that says nothing is."""
    sample = format_sample({"messages": [QUESTION, {**ANSWER, key: mark}, QUESTION, {**ANSWER, key: None}]})

    assert [turn.learned for turn in sample.turns] == [True, is_learned, True, True]


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


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[\\"), max_size=10)


@st.composite
def tagged_rows(draw: st.DrawFn) -> tuple[dict[str, Any], list[list[str | int]]]:
    """Draw a row of messages with images by tag or part, and the parts that each turn has to have."""
    n_images = 0
    messages, expected = [], []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(st.one_of(words.filter(bool), st.none()), max_size=5))
        content: Any = []
        numbered: list[str | int] = []
        for part in parts:
            if part is None:
                content.append({"type": "image"})
                numbered.append(n_images)
                n_images += 1
            else:
                content.append({"type": "text", "text": part})
                numbered[-1:] = (
                    [numbered[-1] + part] if numbered and isinstance(numbered[-1], str) else [*numbered[-1:], part]
                )
        if draw(st.booleans()):
            content = "".join(IMAGE_TAG if part["type"] == "image" else part["text"] for part in content)
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]
        expected.append(numbered)
    return {"messages": messages, "images": list(range(n_images))}, expected


@given(tagged_rows())
def test_every_image_has_one_place(drawn: tuple[dict[str, Any], list[list[str | int]]]) -> None:
    """Each image has one slot, texts and images keep their order, and the row is not changed."""
    row, expected = drawn
    before = copy.deepcopy(row)

    sample = format_sample(row)

    slots = [part.index for turn in sample.turns for part in turn.parts if isinstance(part, ImageSlot)]
    assert slots == list(range(len(sample.images)))
    assert list(sample.images) == row["images"]
    assert [parts for role, parts in shape(sample) if role == "user"] == expected
    assert row == before


@given(st.lists(st.integers(), max_size=4), st.lists(words.filter(bool), min_size=1, max_size=4))
def test_images_without_marker_come_first(images: list[int], questions: list[str]) -> None:
    """Images that nothing places stand before the first question, in their order."""
    messages = [message for text in questions for message in turns(text, "Yes.")]

    sample = format_sample({"images": images, "messages": messages})

    assert shape(sample)[0] == ("user", [*images, questions[0]])
    assert [turn.text for turn in sample.turns if turn.role == "user"] == questions


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


@pytest.mark.parametrize("content", ["12.50", "true", "1e3", "0", "false"])
def test_contents_that_are_no_strings(content: str) -> None:
    """A number as the content of a message is learned as it is written."""
    row = {"messages": turns("q", parse_json(content))}

    assert format_sample(row).turns[1].text == content


@pytest.mark.parametrize("content", [[10, 20], [["a"], 3], [True]])
def test_lists_of_numbers_are_no_parts(content: Any) -> None:
    """The numbers of a list are not put together to another number."""
    with pytest.raises(SampleError, match="expected text or a list of parts"):
        format_sample({"messages": turns("q", content)})
