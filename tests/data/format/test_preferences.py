"""Rows with two answers, or with an answer and a mark: every layout of other trainers, and what is wrong with rows."""

import json
import re
from typing import Any

import numpy as np
import pytest

from vlora.data.format.samples import Preferences, Reading, read_sample
from vlora.errors import SampleError
from vlora.types import ImageSlot, Sample, Turn

QUESTION = {"role": "user", "content": "<image>Which digit?"}
SEVEN, SIX = {"role": "assistant", "content": "seven"}, {"role": "assistant", "content": "6"}
IMAGES = {"images": ["a.png"]}


def read(row: dict[str, Any], preferences: Preferences = "pairs") -> Sample:
    """Read a row."""
    return read_sample(row, "rows row 3", Reading(preferences=preferences))[0]


def shape(turns: tuple[Turn, ...]) -> list[tuple[str, str, bool]]:
    """Give roles, texts with images marked, and whether turns are learned."""
    return [
        (turn.role, "".join("<image>" if isinstance(part, ImageSlot) else part for part in turn.parts), turn.learned)
        for turn in turns
    ]


PAIRS: dict[str, dict[str, Any]] = {
    "TRL, an explicit prompt": {"prompt": [QUESTION], "chosen": [SEVEN], "rejected": [SIX], **IMAGES},
    "TRL, texts": {"prompt": "Which digit?", "chosen": "seven", "rejected": "6", "image": "a.png"},
    "TRL, an implicit prompt": {"chosen": [QUESTION, SEVEN], "rejected": [QUESTION, SIX], **IMAGES},
    "TRL, a prompt as messages and answers as texts": {
        "prompt": [QUESTION],
        "chosen": "seven",
        "rejected": "6",
        **IMAGES,
    },
    "UltraFeedback, the prompt said twice": {
        "prompt": "Which digit?",
        "chosen": [QUESTION, SEVEN],
        "rejected": [QUESTION, SIX],
        **IMAGES,
    },
    "JSON": {
        "prompt": json.dumps([QUESTION]),
        "chosen": json.dumps([SEVEN]),
        "rejected": json.dumps([SIX]),
        **IMAGES,
    },
    "JSON of whole conversations": {
        "chosen": json.dumps([QUESTION, SEVEN]),
        "rejected": json.dumps([QUESTION, SIX]),
        **IMAGES,
    },
    "mlx-vlm": {"messages": [QUESTION], "chosen": "seven", "rejected": "6", **IMAGES},
    "LLaMA-Factory, ShareGPT": {
        "conversations": [{"from": "human", "value": "<image>Which digit?"}],
        "chosen": {"from": "gpt", "value": "seven"},
        "rejected": {"from": "gpt", "value": "6"},
        **IMAGES,
    },
    "LLaMA-Factory, Alpaca": {
        "instruction": "<image>Which digit?",
        "input": "",
        "chosen": "seven",
        "rejected": "6",
        **IMAGES,
    },
    "ms-swift, a response": {"messages": [QUESTION, SEVEN], "rejected_response": "6", **IMAGES},
    "ms-swift, messages": {"messages": [QUESTION, SEVEN], "rejected_messages": [QUESTION, SIX], **IMAGES},
    "ms-swift, a query": {"query": "<image>Which digit?", "response": "seven", "rejected_response": "6", **IMAGES},
    "a question": {"question": "Which digit?", "chosen": "seven", "rejected": "6", "image": "a.png"},
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_layout_gives_the_same_pair(row: dict[str, Any]) -> None:
    """Prompt, images and both answers come back from every layout; only the answers are learned."""
    sample = read(row)

    asked = ("user", "<image>Which digit?", True)
    assert shape(sample.turns) == [asked, ("assistant", "seven", True)]
    assert shape(sample.rejected) == [asked, ("assistant", "6", True)]
    assert sample.images == ("a.png",)
    assert sample.is_wanted is None


MARKED: dict[str, dict[str, Any]] = {
    "TRL": {"prompt": [QUESTION], "completion": [SEVEN], "label": True, **IMAGES},
    "TRL, texts": {"prompt": "Which digit?", "completion": "seven", "label": True, "image": "a.png"},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "<image>Which digit?"}, {"from": "gpt", "value": "seven"}],
        "kto_tag": True,
        **IMAGES,
    },
    "ms-swift": {"messages": [QUESTION, SEVEN], "label": 1, **IMAGES},
}


@pytest.mark.parametrize("row", MARKED.values(), ids=MARKED)
def test_every_layout_gives_the_same_mark(row: dict[str, Any]) -> None:
    """An answer and whether it is wanted; the same with false, and a pair is read, too."""
    mark = "kto_tag" if "kto_tag" in row else "label"
    sample, other, pair = read(row, "marks"), read({**row, mark: False}, "marks"), read(PAIRS["mlx-vlm"], "marks")

    assert shape(sample.turns) == [("user", "<image>Which digit?", True), ("assistant", "seven", True)]
    assert (sample.is_wanted, other.is_wanted, sample.rejected) == (True, False, ())
    assert (pair.is_wanted, bool(pair.rejected)) == (None, True)


@pytest.mark.parametrize(
    ("value", "is_wanted"),
    [
        *[(value, True) for value in (True, 1, 1.0, np.bool_(True), "true", "True", " TRUE ", "1", "1.0")],
        *[(value, False) for value in (False, 0, 0.0, np.bool_(False), "false", "False", "0", "0.0")],
    ],
)
def test_marks_are_read_as_files_write_them(value: Any, is_wanted: bool) -> None:
    """A JSON file has booleans and numbers, the cells of a CSV file are texts."""
    assert read({**MARKED["TRL"], "label": value}, "marks").is_wanted is is_wanted


def test_earlier_turns_and_system_prompts_belong_to_the_prompt() -> None:
    """Of a longer conversation only the turns where the two differ are learned; a system prompt stands first."""
    before = [QUESTION, SIX, {"role": "user", "content": "Look again."}]
    sample = read({"system": "Be brief.", "chosen": [*before, SEVEN], "rejected": [*before, SIX], **IMAGES})

    asked = [
        ("system", "Be brief.", True),
        ("user", "<image>Which digit?", True),
        ("assistant", "6", False),
        ("user", "Look again.", True),
    ]
    assert shape(sample.turns) == [*asked, ("assistant", "seven", True)]
    assert shape(sample.rejected) == [*asked, ("assistant", "6", True)]


LONG = "Which digit is on the sign? " * 20
ASKED: dict[str, dict[str, Any]] = {
    "a text": {"prompt": "Which digit?"},
    "messages": {"prompt": [QUESTION]},
    "a question": {"question": "Which digit?"},
    "an instruction and its input": {"instruction": "Which", "input": "digit?"},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_earlier_turns_stand_before_every_question(asked: dict[str, Any]) -> None:
    """The column 'history' is read beside every column of a question; a system prompt stands before it."""
    before = {"history": [["Is it odd?", "Yes."]], "system": "Be brief."}
    sample = read({**asked, **before, "chosen": "seven", "rejected": "6", **IMAGES})

    for turns in (sample.turns, sample.rejected):
        assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
        assert [turn.learned for turn in turns[1:]] == [True, False, True, True]
        assert "Is it odd?" in turns[1].parts
        assert turns[2].parts == ("Yes.",)
    row = {**asked, **before, "chosen": "seven", "rejected": "6", **IMAGES}
    _, use = read_sample(row, "row", Reading(preferences="pairs"))
    assert use.unused == frozenset()


def test_history_follows_a_system_prompt_among_messages() -> None:
    """A system prompt of the messages under 'prompt' stays first."""
    prompt = [{"role": "system", "content": "Be brief."}, QUESTION]
    sample = read({"prompt": prompt, "history": [["a", "b"]], "chosen": "seven", "rejected": "6", **IMAGES})

    assert [turn.role for turn in sample.turns] == ["system", "user", "assistant", "user", "assistant"]


def test_empty_cells_of_a_table_of_several_layouts_are_passed_over() -> None:
    """An answer with a mark beside empty columns of pairs, and a question beside an empty column of another."""
    marked = {**MARKED["TRL, texts"], "chosen": "", "rejected": "", "rejected_response": "", "kto_tag": ""}
    paired = {**PAIRS["a question"], "prompt": "", "instruction": None, "messages": []}
    empty_label = {**PAIRS["mlx-vlm"], "label": ""}

    assert read(marked, "marks").is_wanted is True
    assert shape(read(paired).turns) == shape(read(PAIRS["a question"]).turns)
    assert read(empty_label, "marks").rejected


def test_an_image_is_question_enough() -> None:
    """A pair of captions has an empty question, as a caption has in fine-tuning."""
    sample = read({"prompt": "", "chosen": "seven", "rejected": "6", **IMAGES})

    assert shape(sample.turns) == [("user", "<image>", True), ("assistant", "seven", True)]


@pytest.mark.parametrize(
    "prompt",
    [LONG, [{"role": "user", "content": LONG}], [{"role": "user", "content": [{"type": "text", "text": LONG}]}]],
)
def test_a_prompt_said_twice_may_leave_out_images(prompt: Any) -> None:
    """A prompt beside whole conversations is compared by its words, however long and in whatever parts."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": LONG}]}
    sample = read({"prompt": prompt, "chosen": [question, SEVEN], "rejected": [question, SIX], **IMAGES})

    assert shape(sample.turns)[0] == ("user", f"<image>{LONG}", True)


def test_columns_are_told() -> None:
    """What columns are read as is said, those that are not read too."""
    row = {**PAIRS["ms-swift, a response"], "source": "x"}
    _, use = read_sample(row, "row", Reading(preferences="pairs"))
    _, marked = read_sample(MARKED["TRL"], "row", Reading(preferences="marks"))

    assert use.used["rejected_response"] == "the worse answer"
    assert use.unused == {"source"}
    assert marked.used["label"] == "whether the answer is wanted"
    _, beside = read_sample({**PAIRS["mlx-vlm"], "label": True}, "row", Reading(preferences="marks"))
    assert beside.unused == {"label"}, "the mark of an answer that has a pair is not read"


PAIR = PAIRS["TRL, an explicit prompt"]
PICTURE = {"role": "assistant", "content": [{"type": "image", "image": "b.png"}, {"type": "text", "text": "seven"}]}
BAD: list[tuple[Preferences, dict[str, Any], str]] = [
    ("pairs", {"prompt": "a", "chosen": "b"}, r"no value under 'rejected'"),
    ("pairs", {"prompt": "a", "rejected": "b"}, r"no value under 'chosen'"),
    ("pairs", {"prompt": "a", "completion": "b"}, r"no value under 'chosen' and 'rejected'"),
    ("pairs", {"question": "a", "answer": "b"}, r"needs a better and a worse answer"),
    ("pairs", {"prompt": "a", "chosen": "", "rejected": "b"}, r"no value under 'chosen'"),
    ("pairs", {"prompt": "a", "chosen": " ", "rejected": "b"}, r"column 'chosen': the answer is empty"),
    ("pairs", {"prompt": "a", "chosen": "b", "rejected": [{**SIX, "content": "\n"}]}, "turns have no text"),
    ("marks", {"prompt": "a", "completion": "  ", "label": True}, "turns have no text"),
    ("pairs", {"prompt": "a", "chosen": None, "rejected": "b"}, r"no value under 'chosen'"),
    ("pairs", {"prompt": "a", "chosen": [], "rejected": "b"}, r"no value under 'chosen'"),
    ("pairs", {"chosen": "a", "rejected": "b"}, r"no column holds the question"),
    ("pairs", {"prompt": "a", "chosen": "b", "rejected": "b"}, r"the same answer"),
    ("pairs", {"chosen": [QUESTION, SEVEN], "rejected": [QUESTION, SEVEN], **IMAGES}, r"the same conversation"),
    ("pairs", {"chosen": [QUESTION, SEVEN], "rejected": [SIX], **IMAGES}, r"'chosen' is a whole conversation"),
    ("pairs", {"chosen": [SEVEN], "rejected": [QUESTION, SIX], **IMAGES}, r"'rejected' is a whole conversation"),
    (
        "pairs",
        {"chosen": [QUESTION, SEVEN], "rejected": [{**QUESTION, "content": "What?"}, SIX], **IMAGES},
        r"begin with different turns",
    ),
    ("pairs", {"chosen": [QUESTION, SEVEN], "rejected": [QUESTION], **IMAGES}, r"'rejected' ends with the question"),
    ("pairs", {"chosen": [QUESTION], "rejected": [QUESTION, SIX], **IMAGES}, r"'chosen' ends with the question"),
    (
        "pairs",
        {"chosen": [QUESTION, SEVEN, QUESTION, SIX], "rejected": [QUESTION, SIX], **IMAGES},
        r"'chosen' has a turn of the user where the answers differ",
    ),
    ("pairs", {**PAIR, "chosen": [SEVEN, QUESTION]}, r"'chosen' has a turn of the user"),
    ("pairs", {**PAIR, "rejected": [{"role": "tool", "content": "x"}]}, r"'rejected' ends with a tool's turn"),
    ("pairs", {**PAIR, "prompt": [QUESTION, SEVEN]}, r"the prompt ends with the assistant's turn"),
    ("pairs", {**PAIR, "prompt": [{"role": "robot", "content": "a"}]}, r"the role 'robot'"),
    ("pairs", {**PAIR, "chosen": [{"role": "robot", "content": "a"}]}, r"'chosen' is a whole conversation"),
    ("pairs", {**PAIR, "chosen": [PICTURE]}, r"an answer that is compared shows an image"),
    ("pairs", {**PAIR, "rejected": [PICTURE]}, r"an answer that is compared shows an image"),
    ("pairs", {**PAIR, "rejected": [{**SIX, "images": ["b.png"]}]}, r"an answer that is compared shows an image"),
    ("pairs", {**PAIR, "chosen": "<image> seven"}, r"is the assistant's and holds the mark <image>"),
    ("pairs", {**PAIR, "rejected": [[SIX]]}, r"found the message"),
    ("pairs", {**PAIR, "images": ["a.png", "b.png"]}, r"1 of 2 images have a place"),
    ("pairs", {**PAIR, "images": []}, r"<image> has no image"),
    ("pairs", {**PAIR, "chosen_image": "b.png"}, r"looks like images, and nothing reads it"),
    ("pairs", {**PAIR, "chosen": [{"role": "assistant"}]}, r"has no content"),
    ("pairs", {**PAIR, "chosen": [3, 4]}, r"found the message 3"),
    ("pairs", {**PAIR, "chosen": {"a": 1}}, r"column 'chosen': found \{'a': 1\}, expected a text, or messages"),
    ("pairs", {"prompt": "a", "chosen": {"a": 1}, "rejected": {"a": 2}}, r"an object that is to be learned is written"),
    ("pairs", {**PAIR, "rejected": [{"content": "6"}]}, r"column 'rejected': found \{'content': '6'\}, expected"),
    ("pairs", {**PAIR, "rejected": b"\x89PNG"}, r"column 'rejected': found a value of type bytes"),
    ("pairs", {**PAIR, "rejected_response": "5"}, r"a worse answer under 'rejected' and under 'rejected_response'"),
    ("pairs", {**PAIR, "rejected_messages": [QUESTION, SIX]}, r"under 'rejected' and under 'rejected_messages'"),
    ("pairs", {**PAIR, "history": [["a"]]}, r"expected a list of \[question, answer\]"),
    (
        "pairs",
        {"prompt": "digit", "chosen": [QUESTION, SEVEN], "rejected": [QUESTION, SIX], **IMAGES},
        r"the prompt is not",
    ),
    (
        "pairs",
        {
            "prompt": [{"role": "user", "content": "d" * 200 + "b"}],
            "chosen": [{"role": "user", "content": "d" * 200 + "a"}, SEVEN],
            "rejected": [{"role": "user", "content": "d" * 200 + "a"}, SIX],
        },
        r"the prompt is not",
    ),
    (
        "pairs",
        {"prompt": "Other?", "chosen": [QUESTION, SEVEN], "rejected": [QUESTION, SIX], **IMAGES},
        r"the prompt is not",
    ),
    ("pairs", {"messages": [QUESTION], "rejected_response": "6", **IMAGES}, r"'chosen' ends with the question"),
    ("pairs", {"messages": [QUESTION, SIX], "rejected_response": "6", **IMAGES}, r"the same answer"),
    ("pairs", {"rejected_response": "6"}, r"no column holds a conversation; expected"),
    ("pairs", {"messages": [QUESTION, SEVEN], "rejected_messages": [QUESTION, SEVEN], **IMAGES}, r"the same conv"),
    ("marks", {"prompt": "a", "completion": "b"}, r"found neither 'label' nor 'kto_tag'"),
    ("marks", {"prompt": "a", "completion": "b", "label": "good"}, r"found 'good' under 'label', expected true"),
    ("marks", {"prompt": "a", "completion": "b", "label": 2}, r"found 2 under 'label'"),
    ("marks", {"prompt": "a", "completion": "b", "label": "2"}, r"found '2' under 'label'"),
    ("marks", {"prompt": "a", "completion": "b", "label": [True]}, r"found \[True\] under 'label'"),
    ("marks", {"prompt": "a", "completion": "b", "label": None}, r"found neither 'label' nor 'kto_tag'"),
    ("marks", {"prompt": "a", "completion": "b", "label": ""}, r"found neither 'label' nor 'kto_tag'"),
    ("marks", {"prompt": "a", "completion": "b", "label": True, "kto_tag": False}, r"found both 'label' and 'kto_tag'"),
    ("marks", {"prompt": "a", "label": True}, r"no value beside|hold no conversation"),
    ("marks", {"messages": [QUESTION], "label": True, **IMAGES}, r"the conversation ends with the question"),
    ("marks", {"prompt": "a", "completion": "", "label": True}, r"nothing to learn from"),
    ("marks", {**PAIR, "rejected": ""}, r"no value under 'rejected'"),
]


@pytest.mark.parametrize(("preferences", "row", "said"), BAD, ids=range(len(BAD)))
def test_bad_rows_are_refused_with_one_sentence(preferences: Preferences, row: dict[str, Any], said: str) -> None:
    """A row that is no comparison is named, with what was found; nothing of it is dropped silently."""
    with pytest.raises(SampleError, match=said) as caught:
        read(row, preferences)

    message = str(caught.value)
    assert message.startswith("rows row 3:")
    assert "\n" not in message
    assert not re.search(r"\.\s", message.replace("...", "")), "one sentence"


def test_fine_tuning_says_how_pairs_are_learned() -> None:
    """A row with two answers and no objective that reads them."""
    with pytest.raises(SampleError, match=r"with train.objective = 'dpo'"):
        read_sample({"prompt": "a", "chosen": "b", "rejected": "c"}, "row", Reading())
