"""Layouts of rows: one conversation comes out of all, marks are told from words, no column is lost in silence."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.format.conversations import complaint_of
from vlora import Sample, Turn, format_sample
from vlora.cli.sentences import describe_columns
from vlora.data.format import layouts, marks
from vlora.data.format.marks import split_marks
from vlora.data.format.messages import Message
from vlora.data.format.samples import Reading, read_sample
from vlora.data.values import Row
from vlora.facts import Columns
from vlora.recipe.columns import COLUMNS, ColumnUse
from vlora.system.files import expand
from vlora.types import ImageSlot

Exchange = tuple[list[str | None], str]
"""Texts of a question, None where an image stands, and the answer."""


def shape(sample: Sample) -> list[tuple[str, list[Any]]]:
    """Write a sample as (role, parts), each image slot as the image that stands there."""
    return [
        (turn.role, [sample.images[part.index] if isinstance(part, ImageSlot) else part for part in turn.parts])
        for turn in sample.turns
    ]


def escape_marks(text: str) -> str:
    return marks._MARK.sub(lambda found: f"\\{found[0]}", text)


def tagged(parts: list[str | None]) -> str:
    return "".join("<image>" if part is None else escape_marks(part) for part in parts)


def in_parts(parts: list[str | None]) -> list[dict[str, Any]]:
    texts = [{"type": "image"} if part is None else {"type": "text", "text": escape_marks(part)} for part in parts]
    return [{**part, "text": part.get("text")} for part in texts]


def messages_of(talk: list[Exchange], write: Callable[[list[str | None]], Any]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": content}
        for question, answer in talk
        for role, content in zip(roles, (write(question), escape_marks(answer)), strict=True)
    ]


def pairs_of(talk: list[Exchange]) -> list[list[str]]:
    return [[tagged(question), escape_marks(answer)] for question, answer in talk]


def share_gpt(talk: list[Exchange]) -> list[dict[str, str]]:
    return [
        {"from": name, "value": text}
        for pair in pairs_of(talk)
        for name, text in zip(("human", "gpt"), pair, strict=True)
    ]


WRITERS: dict[str, Callable[[list[Exchange]], dict[str, Any]]] = {
    "messages, tags": lambda talk: {"messages": messages_of(talk, tagged)},
    "messages, parts": lambda talk: {"messages": messages_of(talk, in_parts)},
    "messages, parts as JSON": lambda talk: {"messages": messages_of(talk, lambda parts: json.dumps(in_parts(parts)))},
    "messages as JSON": lambda talk: {"messages": json.dumps(messages_of(talk, in_parts))},
    "messages, each as JSON": lambda talk: {"messages": [json.dumps(item) for item in messages_of(talk, tagged)]},
    "ShareGPT": lambda talk: {"conversations": share_gpt(talk)},
    "The Cauldron": lambda talk: {
        "texts": [{"user": question, "assistant": answer, "source": "s"} for question, answer in pairs_of(talk)]
    },
    "The Cauldron as JSON": lambda talk: {
        "texts": json.dumps([{"user": question, "assistant": answer} for question, answer in pairs_of(talk)])
    },
    "TRL": lambda talk: {
        "prompt": messages_of(talk, tagged)[:-1],
        "completion": messages_of(talk, tagged)[-1:],
    },
    "TRL as JSON": lambda talk: {
        "prompt": json.dumps(messages_of(talk, in_parts)[:-1]),
        "completion": escape_marks(talk[-1][1]),
    },
    "TRL with earlier turns": lambda talk: {
        "prompt": messages_of(talk, in_parts)[-2:-1],
        "completion": escape_marks(talk[-1][1]),
        "history": pairs_of(talk)[:-1],
    },
    "TRL, texts with earlier turns": lambda talk: {
        "prompt": pairs_of(talk)[-1][0],
        "completion": pairs_of(talk)[-1][1],
        "history": pairs_of(talk)[:-1],
    },
    "a table of several layouts": lambda talk: {
        "prompt": "",
        "completion": "",
        "messages": [],
        "query": None,
        "question": pairs_of(talk)[-1][0],
        "answer": pairs_of(talk)[-1][1],
        "history": pairs_of(talk)[:-1],
    },
    "Swift": lambda talk: {
        "query": pairs_of(talk)[-1][0],
        "response": pairs_of(talk)[-1][1],
        "history": pairs_of(talk)[:-1],
    },
    "Alpaca": lambda talk: {
        "instruction": pairs_of(talk)[-1][0],
        "input": "",
        "output": pairs_of(talk)[-1][1],
        "history": json.dumps(pairs_of(talk)[:-1]),
    },
    "question and answer": lambda talk: {
        "question": pairs_of(talk)[-1][0],
        "answer": pairs_of(talk)[-1][1],
        "history": pairs_of(talk)[:-1],
    },
}


SPELLINGS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "images": lambda names: {"images": names},
    "JSON": lambda names: {"images": json.dumps(names)},
    "nested": lambda names: {"images": [names[:1], names[1:]]},
    "addresses": lambda names: {"images": [{"url": name} for name in names]},
    "paths": lambda names: {"images": [{"bytes": None, "path": name} for name in names]},
    "files": lambda names: {"image": [f"file://{name}" for name in names]},
    "files of this machine": lambda names: {"image": [f"FILE://localhost{name}" for name in names]},
    "OpenAI": lambda names: {"image": [{"image_url": {"url": name}} for name in names]},
}


words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\\"), min_size=1, max_size=8
) | st.sampled_from(
    ["<image>", "<video>", "<image 1>", "<|image_pad|>", "[IMG]", '["a.png"]', "{}", "</image>", "<Image>"]
)


@st.composite
def talks(draw: st.DrawFn) -> list[Exchange]:
    """Draw a conversation: texts and images in any order, none of them beside its like."""
    exchanges = []
    for _ in range(draw(st.integers(1, 3))):
        parts: list[str | None] = [draw(words)]
        for part in draw(st.lists(words | st.none(), max_size=4)):
            if isinstance(parts[-1], str) and isinstance(part, str):
                parts[-1] = f"{parts[-1]} {part}"
            else:
                parts.append(part)
        # Answers of blanks alone are refused.
        exchanges.append((parts, draw(words.filter(str.strip))))
    return exchanges


@pytest.mark.parametrize("layout", WRITERS)
@given(talk=talks(), spelling=st.sampled_from(sorted(SPELLINGS)))
def test_a_conversation_is_the_same_in_every_layout(layout: str, talk: list[Exchange], spelling: str) -> None:
    """Texts, roles, images and their order come back from every layout and spelling, and the row stays as it is."""
    names = [f"/pictures/{number}.png" for number in range(sum(parts.count(None) for parts, _ in talk))]
    row = {**WRITERS[layout](talk), **SPELLINGS[spelling](names)}
    before, left = copy.deepcopy(row), iter(names)
    expected = [
        turn
        for parts, answer in talk
        for turn in (("user", [next(left) if part is None else part for part in parts]), ("assistant", [answer]))
    ]

    sample = format_sample(row)

    images = [str(expand(image)) for image in sample.images]
    assert shape(Sample(sample.source, sample.turns, tuple(images))) == expected
    assert images == names
    assert row == before


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.from_regex(r"\\{0,2}<(image|video|image 1|p)>x?"))
def test_any_text_can_be_written(text: str) -> None:
    """Escaped marks are words, whatever the text."""
    assert "".join(map(str, split_marks(escape_marks(text)))) == text


LAYOUTS: dict[str, tuple[dict[str, Any], list[tuple[str, list[Any]]]]] = {
    "Alpaca with an input": (
        {"instruction": "Name it.", "input": "It purrs.", "output": "A cat.", "system": "Be brief.", "image": "a.png"},
        [("system", ["Be brief."]), ("user", ["a.png", "Name it.\nIt purrs."]), ("assistant", ["A cat."])],
    ),
    "TRL, texts": (
        {"prompt": "What is it?", "completion": "A cat.", "images": ["a.png"]},
        [("user", ["a.png", "What is it?"]), ("assistant", ["A cat."])],
    ),
    "an image and a caption": (
        {"image": "a.png", "caption": "A cat."},
        [("user", ["a.png"]), ("assistant", ["A cat."])],
    ),
    "an image and a text": ({"image": "a.png", "text": "A cat."}, [("user", ["a.png"]), ("assistant", ["A cat."])]),
    "an image and a label": ({"image": "a.png", "label": "cat"}, [("user", ["a.png"]), ("assistant", ["cat"])]),
    "an empty list before an image": (
        {"images": [], "image": "a.png", "question": "What?", "answer": "A cat."},
        [("user", ["a.png", "What?"]), ("assistant", ["A cat."])],
    ),
    "exchanges whose keys stand in another order": (
        {"texts": [{"assistant": "A cat.", "user": "What?"}, {"gpt": "Yes.", "human": "Sure?", "system": "S"}]},
        [
            *(("user", ["What?"]), ("assistant", ["A cat."])),
            *(("system", ["S"]), ("user", ["Sure?"]), ("assistant", ["Yes."])),
        ],
    ),
    "a conversation of exchanges": (
        {"conversations": [{"user": "What?", "assistant": "A cat."}]},
        [("user", ["What?"]), ("assistant", ["A cat."])],
    ),
    "marks with numbers": (
        {"images": ["a.png", "b.png"], "question": "<image 2> or <image 1>?", "answer": "<image 2>, the <video>."},
        [("user", ["b.png", " or ", "a.png", "?"]), ("assistant", ["<image 2>, the <video>."])],
    ),
    "one image asked for twice": (
        {"image": "a.png", "question": "Is <|image_1|> like <image1>?", "answer": "Yes."},
        [("user", ["Is ", "a.png", " like ", "a.png", "?"]), ("assistant", ["Yes."])],
    ),
    "InternLM's mark": (
        {"image": "a.png", "question": "<ImageHere>What?", "answer": "A cat."},
        [("user", ["a.png", "What?"]), ("assistant", ["A cat."])],
    ),
    "an answer that is an object": (
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"größe": 3, "text": None}}]},
        [("user", ["?"]), ("assistant", ['{"größe": 3, "text": null}'])],
    ),
    "an answer that is a list of objects": (
        {"conversations": [{"from": "user", "value": "?"}, {"from": "gpt", "value": [{"bbox": [1, 2], "text": "a"}]}]},
        [("user", ["?"]), ("assistant", ['[{"bbox": [1, 2], "text": "a"}]'])],
    ),
    "an answer that looks like JSON of parts": (
        {"question": "?", "answer": '[{"type": "text", "text": "x"}]'},
        [("user", ["?"]), ("assistant", ['[{"type": "text", "text": "x"}]'])],
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layout(case: str) -> None:
    """Layouts of single exchanges, and what stands beside them."""
    row, expected = LAYOUTS[case]

    assert shape(format_sample(row)) == expected


def test_system_prompt_of_the_recipe() -> None:
    """A system prompt of the recipe stands before rows that have none; a row's own stays alone."""
    row = {"question": "What?", "answer": "A cat."}
    own = {**row, "system": "Be long."}
    said = {"messages": [{"role": "system", "content": "Be odd."}, *messages_of([(["What?"], "A cat.")], tagged)]}

    found = [format_sample(row, system="Be brief.").turns[0] for row in (row, own, said)]

    assert [turn.text for turn in found] == ["Be brief.", "Be long.", "Be odd."]
    assert all(turn.role == "system" for turn in found)


def test_columns_are_mapped() -> None:
    """Columns of other names are read as the ones that the recipe names; several images in the recipe's order."""
    row = {"reply": "A cat.", "ask": "What?", "pic_b": "b.png", "pic_a": ["a.png"], "image_3": "c.png", "role": "x"}
    columns = {"ask": "question", "reply": "answer", "pic_a": "images", "pic_b": "images", "image_3": "unused"}
    before = copy.deepcopy(row)

    sample, use = read_sample(row, "row", Reading(columns=columns))

    assert shape(sample) == [("user", ["a.png", "b.png", "What?"]), ("assistant", ["A cat."])]
    assert use.used.keys() == {"ask", "reply", "pic_a", "pic_b"}
    assert use.unused == {"image_3", "role"}
    assert row == before


def test_a_mapped_column_may_be_missing() -> None:
    """Rows that lack a mapped column are read without it."""
    found = format_sample({"question": "What?", "answer": "A cat."}, columns={"imgs": "images"})

    assert found.turns[0] == Turn("user", ("What?",))


def test_names_are_exchanged() -> None:
    """A column may be mapped to the name of another one that is mapped, too."""
    row = {"question": "A cat.", "answer": "What?"}

    found = format_sample(row, columns={"question": "answer", "answer": "question"})

    assert [turn.text for turn in found.turns] == ["What?", "A cat."]


def test_use_is_told_in_a_line() -> None:
    """What became of columns is one line, over the rows that were read; what one row uses is used."""
    rows: list[dict[str, Any]] = [
        {"texts": [{"user": "a", "assistant": "b", "relevance": 3}], "images": None, "source": "s"},
        {"query": "a", "response": "b", "audio": b"...", "source": "s", "id": 3, "img": "a.png"},
    ]
    reading, use = Reading(columns={"img": "images"}), ColumnUse()

    for row in rows:
        use |= read_sample(row, "row", reading)[1]

    columns = Columns(used=use.used, unused=tuple(sorted(use.unused)))
    assert describe_columns(columns) == (
        "texts (the conversation), images, query (the question), response (the answer), "
        "img (as images); not used: audio, id, source, texts.relevance"
    )


def test_keys_that_nothing_reads() -> None:
    """Keys of messages, parts and images that nothing reads are named like columns."""
    url = {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}, "cache": 3}
    user = {"role": "user", "content": [url, {"type": "image"}], "id": "m1", "weight": None}
    images = [{"url": "a.png"}, {"url": "b.png", "alt": "b"}]
    row = {"messages": [user, {"role": "gpt", "content": "x"}], "images": images}

    _, use = read_sample(row, "row", Reading())

    assert use.unused == {"messages.id", "messages.content.cache", "messages.content.image_url.detail", "images.alt"}


def talk_with(content: Any, **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}], **row}


ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a word for an image": (talk_with("<image>. Write <image>.", images=["a.png"]), ["<image>", r"\<image>"]),
    "a mark in an answer": (
        {"image": "a.png", "question": "What?", "answer": "An <image>."},
        ["turn 2", r"\<image>", "assistant"],
    ),
    "a video in a system prompt": (talk_with("What?", system="<video>"), ["<video>"]),
    "a video": (talk_with("<video>What?"), ["turn 1", "<video>", r"\<video>"]),
    "a sound": ({"question": "<audio>", "answer": "x"}, ["<audio>"]),
    "a file named in a text": (talk_with("<img>cats/1.jpg</img>What?"), ["<img>cats/1.jpg</img>", "brings nothing"]),
    "a model's own token": (talk_with("<|image_pad|>What?", image="a.png"), ["<|image_pad|>", "write <image>"]),
    "a numbered mark and no image": (talk_with("<image 1>?"), ["<image 1>", "0", "data.columns"]),
    "a numbered mark beyond": (talk_with("<image 1><image 3>", images=["a", "b"]), ["<image 3>", "2"]),
    "numbered and other marks": (talk_with("<image><image 2>", images=["a", "b"]), ["number all of them or none"]),
    "an image that no number names": (talk_with("<image 2>", images=["a", "b"]), ["1 of 2"]),
    "image and images that differ": (talk_with("?", images=["a"], image="b"), ["'images' and 'image'", "data.columns"]),
    "a message's images of two kinds": (
        {
            "messages": [
                {"role": "user", "content": "?", "images": ["a"], "image": "b"},
                {"role": "gpt", "content": "x"},
            ]
        },
        ["turn 1", "'images' and 'image'"],
    ),
    "content and column that differ": (
        talk_with([{"type": "image", "image": "b.png"}, "?"], images=["a.png"]),
        ["'a.png'", "'b.png'"],
    ),
    "sizes in a part": (
        talk_with([{"type": "image", "image": "b.png", "resized_height": 28, "min_pixels": None}]),
        ["turn 1", "resized_height = 28", "resized_width"],
    ),
    "text and image in one part": (talk_with([{"text": "What?", "image": "a.png"}]), ["both text and an image"]),
    "images of a message by another name": (
        {"messages": [{"role": "user", "content": "?", "imgs": ["a"]}, {"role": "gpt", "content": "x"}]},
        ["messages.imgs"],
    ),
    "an image part by another name": (
        talk_with(["?", {"type": "image", "img": "a.png"}], image="b"),
        ["content.img"],
    ),
    "a size beside an image": (talk_with("?", images=[{"url": "a", "min_pixels": 3}]), ["'images.min_pixels'", "part"]),
    "a size beside a message": (
        {"messages": [{"role": "user", "content": "?", "resized_width": 8}, {"role": "gpt", "content": "x"}]},
        ["'messages.resized_width'"],
    ),
    "a size beside a part's image": (
        talk_with([{"type": "image_url", "image_url": {"url": "a.png", "max_pixels": 9}}]),
        ["'messages.content.image_url.max_pixels'"],
    ),
    "a message of two contents": (
        {"messages": [{"role": "user", "content": "?", "value": "!"}, {"role": "gpt", "content": "x"}]},
        ["turn 1", "'content' and 'value'"],
    ),
    "a part of two images": (talk_with([{"type": "image", "image": "a", "path": "b"}]), ["'image' and 'path'"]),
    "lists in lists": (talk_with([[["deep"]]]), ["['deep']"]),
    "a caption without an image": ({"caption": "A cat."}, ["caption", "data.columns"]),
    "a question without an answer": ({"image": "a.png", "text": "A cat.", "question": "What?"}, ["question", "answer"]),
    "history of another form": ({"query": "a", "response": "b", "history": ["c"]}, ["history", "['c']"]),
    "texts without roles": ({"texts": ["a"]}, ["'a'"]),
    "messages nested without end": ({"messages": "[" * 100_000}, ["messages", "nested too deep"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case: str) -> None:
    """What is not understood is refused with what was found."""
    row, words = ERRORS[case]

    problem = complaint_of(row)

    for word in words:
        assert word in problem


def test_mapping_to_a_column_that_is_there() -> None:
    """A column is not lost to another one that is mapped to its name."""
    problem = complaint_of({"question": "a", "answer": "b", "reply": "c"}, columns={"reply": "answer"})

    assert "'reply'" in problem
    assert 'answer = "unused"' in problem
    problem = complaint_of(talk_with("What?", reply="c"), columns={"reply": "answer"})
    assert "'reply' to 'answer'" in problem
    assert "read from messages" in problem
    found = format_sample(
        {"question": "a", "answer": "b", "reply": "c"}, columns={"reply": "answer", "answer": "unused"}
    )
    assert found.turns[1].text == "c"


def test_custom_format_uses_what_it_names() -> None:
    """With a custom format the columns that it names are used, and images as ever."""
    row = {"q": "What?", "label": "A cat.", "messages": [], "image": "a.png", "photo": "b.png"}
    prompt = json.dumps({"user": "{q}", "assistant": "{label}"})
    reading = Reading(custom_prompt_format=prompt, columns={"photo": "unused"})

    sample, use = read_sample(row, "row", reading)

    assert shape(sample) == [("user", ["a.png", "What?"]), ("assistant", ["A cat."])]
    assert use.used == {**dict.fromkeys(("q", "label"), "data.custom_prompt_format"), "image": "images"}
    assert use.unused == {"messages", "photo"}


def test_every_column_of_a_layout_is_known() -> None:
    """What a layout reads has a name in the line about columns, and other columns may be mapped to it."""
    assert {column for layout in layouts.LAYOUTS for column in (*layout.needs, *layout.takes)} <= COLUMNS.keys()


def read_photo(row: Row, source: str) -> list[Message]:
    asked = [{"type": "image", "image": row["photo"]}, {"type": "text", "text": layouts.text_of(row, "q", source)}]
    return [{"role": "user", "content": asked}, layouts.make_message("assistant", layouts.text_of(row, "a", source))]


@pytest.fixture
def photo_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a layout with an image column of its own, as the map says."""
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, layouts.Layout(("photo", "q", "a"), read_photo)))
    for column, what in (("photo", "images"), ("q", "the question"), ("a", "the answer")):
        monkeypatch.setitem(COLUMNS, column, what)


@pytest.mark.usefixtures("photo_rows")
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_layout_with_an_image_column_of_its_own(spelling: str) -> None:
    """An image part of its messages takes every spelling of images, and the column is told as used."""
    names = ["/pictures/0.png", "/pictures/1.png"]
    (images,) = SPELLINGS[spelling](names).values()

    sample, use = read_sample({"photo": images, "q": "What?", "a": "Cats.", "id": 3}, "row", Reading())

    assert [str(expand(image)) for image in sample.images] == names
    assert [len(turn.parts) for turn in sample.turns] == [len(names) + 1, 1]
    assert use == ColumnUse({"photo": "images", "q": "the question", "a": "the answer"}, frozenset({"id"}))


@pytest.mark.usefixtures("photo_rows")
def test_one_of_three_columns_has_no_value() -> None:
    """Of a layout with three columns the one that lacks is named beside the others."""
    problem = complaint_of({"photo": "a.png", "q": "What?", "a": None})

    assert "the column 'a' has no value beside 'photo' and 'q'" in problem
