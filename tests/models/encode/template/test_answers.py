"""What is learned of answers that are more than a text: thoughts, tool calls, and what templates make of them."""

import datetime as dt
import decimal
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import chat_templates
from tests.models.encode.template.talks import (
    CALLED,
    CALLING,
    IM_END,
    ROWS,
    TEMPLATES,
    THOUGHTS,
    TOOL,
    answered,
    assistant,
    supervised_texts,
    talk,
    user,
)
from vlora import Sample, Turn
from vlora.data.format.samples import format_sample
from vlora.data.skeletons import find_marks
from vlora.errors import SampleError
from vlora.models import Encoder
from vlora.models.encode.template import conversation
from vlora.models.encode.template.answers import AnswerFinder
from vlora.models.encode.template.chat_template import render as render_template

Encoding = Callable[..., Encoder]


THINKING = {"thinking": chat_templates.QWEN3_THINKING, "hybrid": chat_templates.QWEN3_HYBRID}


LEARNED = f"It has a dial.\n</think>\n\nA meter.{IM_END}"


@pytest.mark.parametrize("message", THOUGHTS)
@pytest.mark.parametrize("name", THINKING)
def test_thoughts(name: str, message: dict[str, Any], encoder: Encoding) -> None:
    """A thought is learned behind the prompt that opens it, and its end and the answer with it."""
    encode = answered("qwen3_vl", encoder, THINKING[name])
    sample = format_sample(talk(message))

    example = encode(sample)
    prompt, expected = encode.ask(attrs.evolve(sample, turns=sample.turns[:1]), sample.turns[1])

    assert supervised_texts(example, encode) == [LEARNED]
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert encode.tokenizer.decode(example.tokens) == f"{prompt}{expected}{IM_END}\n"


@pytest.mark.parametrize("content", [None, "", " "])
def test_answers_that_are_thoughts_alone(content: str | None, encoder: Encoding) -> None:
    """A thought without an answer is learned as the template writes it, or refused; never is an end learned alone."""
    row = talk(assistant(content, reasoning_content="It has a dial."))
    longer = talk(assistant(), user("And?"), *row["messages"][1:])
    earlier = talk(*row["messages"][1:], user("And?"), assistant())
    for template in THINKING.values():
        encode = answered("qwen3_vl", encoder, template)
        for talked in (row, longer):
            learned = supervised_texts(encode(format_sample(talked)), encode)
            assert learned[-1] == f"It has a dial.\n</think>\n\n{content or ''}{IM_END}"
        with pytest.raises(SampleError, match=r"does not write assistant turn 1 .*'It has a dial\.' is missing"):
            encode(format_sample(earlier))
    for family, template in TEMPLATES.items():
        for talked in (row, longer, earlier):
            with pytest.raises(SampleError, match=r"has a thought \(reasoning_content\), which .* cannot express"):
                answered(family, encoder, template)(format_sample(talked))
    with pytest.raises(SampleError, match=r"^row: turn 4 holds an empty thought and nothing else"):
        format_sample(talk(assistant(), user("And?"), assistant(content, reasoning_content=" \n")))


@pytest.mark.parametrize(
    ("name", "learned", "asked"),
    [
        ("thinking", f"\n</think>\n\nA meter.{IM_END}", "<think>\n"),
        ("hybrid", f"A meter.{IM_END}", "<think>\n\n</think>\n\n"),
    ],
)
def test_answers_without_a_thought(name: str, learned: str, asked: str, encoder: Encoding) -> None:
    """An empty think block is learned as far as the prompt leaves it to the model."""
    encode = answered("qwen3_vl", encoder, THINKING[name])
    sample = format_sample(talk(assistant()))

    example = encode(sample)
    prompt, expected = encode.ask(attrs.evolve(sample, turns=sample.turns[:1]), sample.turns[1])

    assert supervised_texts(example, encode) == [learned]
    assert prompt.endswith(f"<|im_start|>assistant\n{asked}")
    assert f"{expected}{IM_END}" == learned


@pytest.mark.parametrize("message", THOUGHTS)
@pytest.mark.parametrize("name", THINKING)
def test_earlier_answers_are_learned_as_they_are_shown(name: str, message: dict[str, Any], encoder: Encoding) -> None:
    """The template leaves a thought out of an earlier answer; what it shows there is learned."""
    encode = answered("qwen3_vl", encoder, THINKING[name])
    example = encode(format_sample(talk(message, user("And now?"), message)))

    assert supervised_texts(example, encode) == [f"A meter.{IM_END}", LEARNED]
    assert encode.tokenizer.decode(example.tokens).count("It has a dial.") == 1


@pytest.mark.parametrize("name", THINKING)
def test_calls_behind_thoughts(name: str, encoder: Encoding) -> None:
    """A call is learned with the thought that led to it, an earlier one without, and no answer of a tool is."""
    encode = answered("qwen3_vl", encoder, THINKING[name])
    thinking = assistant(None, reasoning_content="Closer.", tool_calls=CALLING["tool_calls"])
    result = {"role": "tool", "content": f"42{IM_END}"}
    row = talk(thinking, result, assistant("It says 42.", reasoning_content="So."), tools=[TOOL])
    later = [user("And now?"), assistant("A meter.", reasoning_content="It has a dial.")]

    assert supervised_texts(encode(format_sample(row)), encode) == [
        f"Closer.\n</think>\n\n{CALLED}{IM_END}",
        f"So.\n</think>\n\nIt says 42.{IM_END}",
    ]
    longer = {**row, "messages": [*row["messages"], *later], "system": "Be brief."}
    assert supervised_texts(encode(format_sample(longer)), encode) == [
        f"{CALLED}{IM_END}",
        f"It says 42.{IM_END}",
        LEARNED,
    ]


def test_call_that_holds_an_end(encoder: Encoding) -> None:
    """A token that ends turns does not end a call that holds it."""
    encode = answered("qwen3_vl", encoder, chat_templates.QWEN3_VL)
    call = {"name": "write", "arguments": {"text": f"a{IM_END}b", "more": f"{IM_END}"}}
    example = encode(format_sample(talk(assistant("Look.", tool_calls=[call, call]), user("And?"), assistant("c"))))

    assert supervised_texts(example, encode)[0].count(IM_END) == 5
    assert supervised_texts(example, encode)[1] == f"c{IM_END}"


def test_thought_that_is_never_written(encoder: Encoding) -> None:
    """A template that drops the last thought, in a field or in the text, makes the row a bad one."""
    for data in ({}, {"train_on_completions": False}):
        encode = answered("qwen3_vl", encoder, chat_templates.FORGETFUL, **data)
        with pytest.raises(SampleError, match=r"^row: turn 2 has a thought \(reasoning_content\)"):
            encode(format_sample(talk(THOUGHTS[0])))
        with pytest.raises(SampleError, match=r"^row: .*not write assistant turn 1.*'\\nIt has a dial.\\n' is missing"):
            encode(format_sample(talk(THOUGHTS[1])))
        # What it asks for is not what it writes; what is learned stands behind what both have in common.
        example = encode(format_sample(talk(assistant())))
        if not data:
            assert supervised_texts(example, encode) == [f"A meter.{IM_END}"]


def test_arguments_as_text(encoder: Encoding) -> None:
    """A template that takes the arguments of calls as text is given them as JSON."""
    template = chat_templates.QWEN3_VL.replace(
        "{{ call.arguments if call.arguments is string else call.arguments | tojson }}", "{{ '' + call.arguments }}"
    )
    encode = answered("qwen3_vl", encoder, template)

    assert supervised_texts(encode(format_sample(ROWS["tool_calls"])), encode) == [f"{CALLED}{IM_END}"]


def test_arguments_as_python_writes_them(encoder: Encoding) -> None:
    """A template that would write Python's form of the arguments is given JSON."""
    template = chat_templates.QWEN3_VL.replace(
        "{{ call.arguments if call.arguments is string else call.arguments | tojson }}", "{{ call.arguments }}"
    )
    encode = answered("qwen3_vl", encoder, template)

    assert supervised_texts(encode(format_sample(ROWS["tool_calls"])), encode) == [f"{CALLED}{IM_END}"]


def test_arguments_that_are_no_json(encoder: Encoding) -> None:
    """What JSON does not have is written by the rule for typed values, or refused, whoever would write it."""
    unchanged = "call.arguments if call.arguments is string else call.arguments | tojson"
    for change in (unchanged, "'' + call.arguments"):
        encode = answered("qwen3_vl", encoder, chat_templates.QWEN3_VL.replace(unchanged, change))
        for value in (b"1", float("nan"), {"bytes": b"1", "path": None}):
            with pytest.raises(SampleError, match=r"^row: .*: found (a value of type bytes|the number nan|an image)"):
                encode(format_sample(talk(assistant(None, tool_calls=[{"name": "zoom", "arguments": {"x": value}}]))))
        arguments = {"on": dt.date(2024, 3, 5), "price": decimal.Decimal("12.50")}
        row = talk(assistant(None, tool_calls=[{"name": "zoom", "arguments": arguments}]))
        assert '{"on": "2024-03-05", "price": 12.50}' in supervised_texts(encode(format_sample(row)), encode)[0]


WORDS = ("zebra", "yak", "vole")


breaks = st.text(st.just("\n"), max_size=3)


spaces = st.text(st.sampled_from(" \n\t"), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an answer with a thought in a field, in its text, or without one, and white space anywhere."""
    word, kind = draw(st.sampled_from(WORDS)), draw(st.sampled_from(["field", "text", "none", "empty"]))
    said = draw(spaces) + word + draw(spaces)
    thought = draw(spaces) + f"{word}s, {word}s" + draw(spaces)
    if kind == "field":
        return assistant(said, reasoning_content=thought)
    if kind == "none":
        return assistant(said)
    return assistant(f"<think>{draw(breaks) if kind == 'empty' else thought}</think>{said}")


questions = st.lists(
    st.sampled_from(["What?", " ", "\n", "<think>", "</think>", "<|im_start|>assistant\n", "<tool_response>"]),
    max_size=4,
).map("".join)


def render_as_transformers(encode: Encoder, messages: list[dict[str, Any]], **options: Any) -> str:
    text: str = encode.tokenizer.apply_chat_template(messages, tokenize=False, chat_template=encode.template, **options)
    return text


@pytest.mark.parametrize("name", THINKING)
@given(
    rows=st.lists(st.tuples(questions, answers()), min_size=1, max_size=3),
    system=st.sampled_from([[], [{"role": "system", "content": "Be brief."}]]),
)
def test_any_thoughts(
    name: str, rows: list[tuple[str, dict[str, Any]]], system: list[dict[str, Any]], encoder: Encoding
) -> None:
    """What is learned of the last answer is what follows the prompt that asks for it, and no answer is left out."""
    encode = answered("qwen3_vl", encoder, THINKING[name])
    messages = [*system, *(message for question, answer in rows for message in (user("Q" + question), answer))]
    try:
        example = encode(format_sample({"messages": messages}))
    except SampleError as error:
        assert "falls inside a token" in str(error)  # noqa: PT017 - white space that the tokenizer joins
        return

    text = render_as_transformers(encode, messages)
    assert encode.tokenizer.decode(example.tokens) == text
    prompts = [
        render_as_transformers(encode, messages[:-1], add_generation_prompt=True, **options)
        for options in ({}, {"enable_thinking": True})
    ]
    prompt = next(prompt for prompt in prompts if text.startswith(prompt))
    *_, last = supervised_texts(example, encode)
    assert text == f"{prompt}{last}\n"
    rest = encode.tokenizer.decode(example.tokens[~example.supervised])
    assert not any(word in rest for word in WORDS)


def test_a_token_that_a_prompt_would_divide() -> None:
    """Where the tokenizer joins the prompt's last white space with the template's, the whole token is learned."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[hash(piece) for piece in re.findall(r"\n+|[^\n]+", text)] for text in texts]

    def write(sample: Sample, options: Mapping[str, Any]) -> str:
        del options
        said = "".join(f"({turn.role}){turn.text}" for turn in sample.turns[:-1])
        return f"{said}(assistant)<think>\n\n</think>\n\n{sample.turns[-1].text}</s>"

    def ask(sample: Sample, options: Mapping[str, Any]) -> str:
        said = "".join(f"({turn.role}){turn.text}" for turn in sample.turns)
        block = "\n</think>\n\n" if can_be_told and options.get("enable_thinking") is False else ""
        return f"{said}(assistant)<think>\n{block}"

    turns = (Turn("user", ("Well?",)), Turn("assistant", ("Yes.",)))

    def learn() -> str:
        find = AnswerFinder(
            write=write,
            ask=ask,
            marks=find_marks("<think></think>"),
            lead="",
            end_of_turn=["</s>"],
            stops=["</s>"],
            tokenize=tokenize,
        )
        located = find(Sample("row", turns, ()))
        (span,) = located.spans
        return located.text[slice(*span)]

    can_be_told = False
    assert learn() == "\n\n</think>\n\nYes.</s>"
    can_be_told = True
    assert learn() == "Yes.</s>"


@pytest.mark.parametrize("family", TEMPLATES)
def test_rendering_grows_with_the_turns(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is rendered as often whether it has few turns or many, and its text is tokenized a few times."""
    encode = answered(family, encoder, TEMPLATES[family], max_seq_length=10**6)
    encode(format_sample(talk(assistant())))
    counts: dict[str, int] = {}
    render, tokenize = render_template, encode.tokenizer

    def count_renderings(*args: Any, **kwargs: Any) -> str:
        counts["renderings"] += 1
        return render(*args, **kwargs)

    class Counting:
        def __call__(self, texts: Any, **kwargs: Any) -> Any:
            counts["characters"] += len(texts) if isinstance(texts, str) else sum(map(len, texts))
            return tokenize(texts, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenize, name)

    monkeypatch.setattr(conversation, "render", count_renderings)
    encode.tokenizer = Counting()
    # A system prompt is looked for in what is written; one that could stand elsewhere, too, is rendered once more.
    asked = "What is it, please?"
    for system, n_renderings in (("Be brief, if you please.", 2), (asked, 4), ("Be.", 4)):
        counts |= {"renderings": 0, "characters": 0}
        encode(format_sample({"messages": [user(asked), assistant()], "system": system}))
        assert counts["renderings"] == n_renderings
    for n_turns in (10, 200):
        counts |= {"renderings": 0, "characters": 0}
        messages = [message for number in range(n_turns) for message in (user(f"{number}?"), assistant(f"{number}."))]
        example = encode(format_sample({"messages": messages}))

        assert len(supervised_texts(example, encode)) == n_turns
        assert counts["renderings"] == 2
        assert counts["characters"] <= 8 * len(encode.render(format_sample({"messages": messages})))


def test_thoughts_in_the_content(encoder: Encoding) -> None:
    """A template that takes thoughts as parts of the content is given them so."""
    encode = answered("mistral3", encoder, chat_templates.MAGISTRAL)
    row = talk(THOUGHTS[0], user("Well?"), assistant())

    found = supervised_texts(encode(format_sample(row)), encode)

    assert found == ["[THINK]It has a dial.[/THINK]A meter.</s>", "A meter.</s>"]
