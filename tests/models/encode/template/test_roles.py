"""Tokens are told apart by whose they are: the template's, a turn's, an image's."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import picture
from vlora import format_sample, models
from vlora.models.encode.template.roles import find_role_spans, roles_of_tokens
from vlora.types import Sample, Turn

EncoderFactory = Callable[..., models.Encoder]

ROW = {
    "image": picture(48, 32, 1),
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>user or assistant?"},
        {"role": "assistant", "content": "user"},
        {"role": "user", "content": "And now? "},
        {"role": "assistant", "content": "assistant"},
    ],
}


def runs(encoder: models.Encoder, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Give the runs of tokens of one role, decoded; of images nothing."""
    sample = format_sample(row)
    example = encoder.encode_untruncated(sample)
    roles, place, found = models.find_roles(encoder, sample, example), 0, []
    assert len(roles) == len(example.tokens)
    for role, group in itertools.groupby(roles):
        n = len(list(group))
        text = "" if role == "image" else encoder.tokenizer.decode(example.tokens[place : place + n].tolist())
        found.append((role, text))
        place += n
    return found


@pytest.mark.parametrize("completions", [True, False])
def test_turns_have_their_roles(encoder: EncoderFactory, completions: bool) -> None:
    """Texts that are words of the template are found where they stand; an answer's end is its own if it is learned."""
    end = [("assistant", "assistant<|im_end|>"), ("template", "\n")]
    middle = [("assistant", "user<|im_end|>"), ("template", "\n<|im_start|>user\n")]
    if not completions:
        end = [("assistant", "assistant"), ("template", "<|im_end|>\n")]
        middle = [("assistant", "user"), ("template", "<|im_end|>\n<|im_start|>user\n")]

    assert runs(encoder("qwen3_vl", train_on_completions=completions), ROW) == [
        ("template", "<|im_start|>system\n"),
        ("system", "Be brief."),
        ("template", "<|im_end|>\n<|im_start|>user\n<|vision_start|>"),
        ("image", ""),
        ("template", "<|vision_end|>"),
        ("user", "user or assistant?"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
        *middle,
        ("user", "And now? "),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
        *end,
    ]


@pytest.mark.parametrize("family", ["llava", "gemma3", "pixtral", "idefics3", "glm4v", "paligemma", "kimi_vl"])
def test_families(family: str, encoder: EncoderFactory) -> None:
    """Questions and answers are found in what other templates write, with other tokenizers."""
    row = {"image": picture(48, 32, 1), "prefix": "What is it?", "suffix": "that one"}
    found = runs(encoder(family, train_on_completions=True), row)
    texts = {role: "".join(text for other, text in found if other == role).strip() for role, _ in found}

    assert {"template", "image", "user", "assistant"} == set(texts)
    assert texts["user"] == "What is it?"
    assert texts["assistant"].startswith("that one")


def test_what_cannot_be_told_is_the_prompts(encoder: EncoderFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned is the assistant's all the same."""
    monkeypatch.setattr("vlora.models.encode.writer.find_role_spans", lambda *_: None)

    assert [role for role, _ in runs(encoder("qwen3_vl", train_on_completions=True), ROW)] == [
        *("prompt", "image", "prompt", "assistant", "prompt", "assistant", "prompt"),
    ]


words = st.text("ab :\n", min_size=1, max_size=6)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), words), min_size=1, max_size=5), st.booleans())
def test_spans_are_the_texts(turns: list[tuple[str, str]], strips: bool) -> None:
    """Whatever is said, and whether or not a template strips it; a template that changes a text is not believed."""

    def write(sample: Sample) -> str:
        said = [(turn.role, turn.text.strip() if strips else turn.text) for turn in sample.turns]
        return "".join(f"{role}: {text}\n" for role, text in said) + "end"

    sample = Sample("a row", tuple(Turn(role, (text,)) for role, text in turns), ())
    text = write(sample)
    spans = find_role_spans(text, sample, write)

    expected = [(role, said.strip()) for role, said in turns if said.strip()]
    assert spans is not None
    assert [(role, text[start:end].strip()) for role, start, end in spans] == expected
    assert find_role_spans(text.replace("a", "c") + "!", sample, write) is None


def test_joined_tokens_are_the_seconds() -> None:
    """A token that stands on both sides of a bound counts once."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[int(text[n : n + 2].encode().hex(), 16) for n in range(0, len(text), 2)] for text in texts]

    assert roles_of_tokens("abcdef", [("user", 1, 4)], tokenize) == ["user", "user", "template"]
