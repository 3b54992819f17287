"""Every answer ends with a token at which generation ends, whatever the chat template writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import FAMILIES
from tests.models.encode.test_encoder_families import MAKE, make
from tests.models.encode.test_seq2seq import encoder as pair_encoder
from tests.training import picture
from vlora import Example, Sample, Turn
from vlora.errors import ModelError
from vlora.models import Encoder
from vlora.models.encode.template.stops import find_ending, find_stop_ids, write_stops
from vlora.types import ImageSlot

Encoding = Callable[..., Encoder]

ASK = Turn("user", (ImageSlot(0), "What is it?"))
SHORT = Sample("a row", (ASK, Turn("assistant", ("A house.",))), (picture(48, 32, 0),))
LONG = attrs.evolve(
    SHORT, turns=(*SHORT.turns, Turn("user", ("And there?",)), Turn("assistant", ("A field, then the sky.",)))
)
ONE_ANSWER = ("paligemma", "paligemma2", "falcon_ocr", "plamo2vl")


def last_of_runs(example: Example) -> list[int]:
    """Give the last token of each run of supervised ones."""
    ends = example.supervised & ~np.append(example.supervised[1:], False)
    return [int(token) for token in example.tokens[ends]]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_checkpoint_learns_to_stop(family: str, encoder: Encoding) -> None:
    """The last token that is learned of every answer is one at which mlx-vlm's generation stops."""
    encode = encoder(family, train_on_completions=True)
    stops = encode.tokenizer.stopping_criteria
    for sample in (SHORT,) if family in ONE_ANSWER else (SHORT, LONG):
        n_answers = sum(turn.role == "assistant" for turn in sample.turns)
        ends = last_of_runs(encode(sample))

        assert len(ends) == n_answers
        assert all(stops(token) for token in ends)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_learned_ends_likewise(family: str, encoder: Encoding) -> None:
    """Where questions are learned too, the end of the last answer is."""
    if family.startswith("paligemma"):
        pytest.skip("its questions are not learned")
    encode = encoder(family)
    example = encode(LONG)
    text = encode.tokenizer.decode(example.tokens[example.supervised])
    stops = [text.rstrip().endswith(stop) for stop in write_stops(encode.stop_ids, encode.tokenizer)]

    assert any(stops) or int(example.tokens[-1]) in encode.stop_ids


@pytest.mark.parametrize("family", MAKE)
def test_families_on_another_tokenizer_learn_to_stop(family: str, checkpoint: Callable[[str], Path]) -> None:
    """So do families whose processors stand on the tokenizer of another."""
    encode = make(family, checkpoint("qwen2_vl"))
    ends = last_of_runs(encode(SHORT))

    assert len(ends) == 1
    assert ends[0] in encode.stop_ids


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_decoders_learn_to_stop(family: str) -> None:
    """And so do decoders beside an encoder."""
    encode = pair_encoder(family)

    assert last_of_runs(encode(SHORT)) == [encode.tokenizer.eos_token_id]


def template(answer: str, *, between: str = "", end: str = "") -> str:
    """Write a chat template with an answer's end, what opens a question, and the end of the conversation."""
    return (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '" + between + "' }}Q: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{{ '\n' }}"
        "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}{{ '" + answer + "' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}A: {% else %}" + end + "{% endif %}"
    )


# What the template writes, and what is learned of the two answers of LONG beyond their texts.
KINDS: dict[str, tuple[str, list[str]]] = {
    "nothing": (template(""), ["<|im_end|>", "<|im_end|>"]),
    "white space": (template(" \\n"), ["<|im_end|>", "<|im_end|>"]),
    "words": (template("\\n### end\\n"), ["<|im_end|>", "<|im_end|>"]),
    "its own end": (template("<|endoftext|>"), ["<|endoftext|>", "<|endoftext|>"]),
    "its own end behind a space": (template(" <|im_end|>\\n"), [" <|im_end|>", " <|im_end|>"]),
    "the next turn": (template("", between="<|endoftext|>"), ["<|endoftext|>", "<|endoftext|>"]),
    "the end of the conversation": (template("", end="<|endoftext|>"), ["", "<|endoftext|>"]),
    "what does not stop": (template("<|box_end|>\\n"), ["<|box_end|>", "<|box_end|><|im_end|>"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_templates(kind: str, encoder: Encoding) -> None:
    """What a template leaves out is written, no more; the prompt is what stood before the answer."""
    written, ends = KINDS[kind]
    encode = attrs.evolve(encoder("qwen2_vl", train_on_completions=True), template=written)
    example = encode(LONG)
    text = encode.render(LONG)
    prompt = encode.render(attrs.evolve(LONG, turns=LONG.turns[:-1]), add_generation_prompt=True)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.supervised, [False]])))
    learned = [encode.tokenizer.decode(example.tokens[slice(*pair)]) for pair in edges.reshape(-1, 2)]

    assert [text.strip(" ") for text in learned] == [
        (turn.text + end).strip(" ") for turn, end in zip(LONG.turns[1::2], ends, strict=True)
    ]
    assert text.startswith(prompt)


@pytest.mark.parametrize("family", ["llava", "glm4v"])
def test_as_published(family: str, encoder: Encoding) -> None:
    """With learn_end = false an answer is learned as the template writes it, without an end."""
    encode = encoder(family, train_on_completions=True, learn_end=False)
    ends = last_of_runs(encode(LONG))

    assert ends[-1] not in encode.stop_ids
    assert encode.tokenizer.decode([ends[-1]]) == "."


@pytest.mark.parametrize("family", ["llava", "glm4v"])
def test_an_end_that_is_there(family: str, encoder: Encoding) -> None:
    """An answer that comes with its end, as some rows do, gets no second one."""
    encode = encoder(family, train_on_completions=True)
    end = encode.tokenizer.decode([last_of_runs(encode(SHORT))[0]])
    given_end = attrs.evolve(SHORT, turns=(ASK, Turn("assistant", (f"A house.{end}",))))

    assert encode(given_end).tokens.tolist() == encode(SHORT).tokens.tolist()


def test_a_model_without_an_end(encoder: Encoding) -> None:
    """Where nothing ends generation the model is refused, unless no end is to be learned."""
    endless = attrs.evolve(encoder("qwen2_vl"), template=template(""), stop_ids=())
    with pytest.raises(ModelError, match=r"names no token at which generation ends .* data\.learn_end = false"):
        endless(SHORT)

    endless = attrs.evolve(endless, data=attrs.evolve(endless.data, learn_end=False))
    assert endless(SHORT).supervised.any()


def test_stops_are_those_of_generation(encoder: Encoding) -> None:
    """The ids are those at which mlx-vlm's own criterion stops."""
    for family in ("glm4v", "kimi_vl", "idefics3", "mllama"):
        encode = encoder(family)

        assert set(encode.stop_ids) == set(encode.tokenizer.stopping_criteria.eos_token_ids)
        assert find_stop_ids({}, object(), encode.tokenizer) == (encode.tokenizer.eos_token_id,)


SPECIAL = ["<a>", "<bb>", "<ccc>"]


@given(
    st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=3, unique=True),
    st.sampled_from(["", " ", "\n", *SPECIAL, "<a>\n", " <bb>", "text<a>"]),
    st.sampled_from(["", "\n", *SPECIAL, "<ccc>Q: ", "Q: <a>"]),
)
def test_what_is_learned_ends_at_a_stop(stops: list[str], after_last: str, after_earlier: str) -> None:
    """However a template goes on, what is learned ends at a stop, and at most one thing is added."""
    ending: Any = find_ending(after_last, after_earlier, stops, SPECIAL)

    assert ending.text.endswith(tuple(stops))
    added = [text for text in (ending.each, ending.last, ending.closing) if text]
    assert len(added) == (not after_last.lstrip(" ").startswith(tuple(stops)))
