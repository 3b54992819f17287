"""Rows as text: what the template writes, which answers are learned, and what is refused."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from tests.models.encode.conversations import (
    END_OF_TURN,
    FAMILIES,
    LEAD,
    LONG,
    ONE,
    REFUSES_SYSTEM,
    TEXT,
    every_family,
    own_ids,
    picture,
    sample_of,
    supervised_texts,
)
from vlora import Example, Sample
from vlora.errors import SampleError
from vlora.models import Encoder

Encoding = Callable[..., Encoder]


STRING_ANSWERS = ("pixtral", "mistral3", "glm4v")


TALK = (("user", "Well?"), ("assistant", "It is two."), ("user", "And then?"), ("assistant", "Three."))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deepseek_vl_v2"])
def test_text_is_the_templates(family: str, encoder: Encoding) -> None:
    """The rendered text is what the model's own `apply_chat_template` makes of it, if no end is to be learned."""
    encode = encoder(family, learn_end=False)
    question = [{"type": "image"}, {"type": "text", "text": "What is in the image?"}]
    answer: Any = "A red square." if family in STRING_ANSWERS else [{"type": "text", "text": "A red square."}]
    owner = encode.processor if getattr(encode.processor, "chat_template", None) else encode.tokenizer
    text = owner.apply_chat_template(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        tokenize=False,
        add_generation_prompt=False,
    )
    bos = encode.tokenizer.bos_token or ""

    # LLaVA-NeXT's template misspells the end of an answer, LLaVA-OneVision's asks for one without this space.
    text = text.replace("<\\s>", "</s>").replace("assistant \n", "assistant\n")
    assert encode.render(ONE).removeprefix(bos) == text.removeprefix(bos)


def test_deepseek_text(encoder: Encoding) -> None:
    """DeepSeek-VL2's text has its own roles, and every answer ends."""
    text = encoder("deepseek_vl_v2").render(LONG)

    assert text.removeprefix(encoder("deepseek_vl_v2").tokenizer.bos_token) == (
        "<|User|>: <image>\nWhat is it?\n\n<|Assistant|>: A house.{end}"
        "<|User|>: And the other?\n\n<|Assistant|>: A field under the sky.{end}"
        "<|User|>: Are there more?\n\n<|Assistant|>: No.{end}"
    ).format(end=END_OF_TURN["deepseek_vl_v2"])


@every_family
def test_prompt_is_what_was_learned(family: str, encoder: Encoding) -> None:
    """The prompt that an answer is generated from is what stood before it in training, token for token."""
    encode = encoder(family, train_on_completions=True)
    example = encode(TEXT)
    prompt = encode.render(Sample("row", TEXT.turns[:1], ()), add_generation_prompt=True)

    first = int(example.supervised.argmax())
    assert own_ids(family, encode, prompt, ()) == example.tokens[:first].tolist()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in REFUSES_SYSTEM])
def test_system_prompt(family: str, encoder: Encoding) -> None:
    """A system prompt is read and, with train_on_completions, not learned."""
    encode = encoder(family, train_on_completions=True)
    example = encode(sample_of(("system", "Read the text."), ("user", "Well?"), ("assistant", "Yes.")))

    assert "Read the text." in encode.tokenizer.decode(example.tokens)
    assert supervised_texts(example, encode) == [f"{LEAD.get(family, '')}Yes.{END_OF_TURN[family]}"]


@pytest.mark.parametrize("family", REFUSES_SYSTEM)
def test_template_that_refuses(family: str, encoder: Encoding) -> None:
    """What a chat template refuses is a bad row, with the template's own words."""
    sample = sample_of(("system", "Read."), ("user", "Well?"), ("assistant", "Yes."))

    with pytest.raises(SampleError, match=r"^rows row 3: .*Only user and assistant turns"):
        encoder(family)(sample)


# As published: the system prompt goes into the question that comes last, and only if nothing comes after it.
LATE_SYSTEM = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}[INST]"
    "{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['content'] }}{% endif %}"
    "{% endfor %}{% endif %}[/INST]"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("turns", [TALK[:2], TALK], ids=["single turn", "multi-turn"])
def test_system_prompt_that_the_template_keeps_for_prompts(
    turns: tuple[tuple[str, ...], ...], encoder: Encoding
) -> None:
    """A system prompt that only a prompt shows is shown in training too, where it would stand in that prompt."""
    encode = attrs.evolve(encoder("pixtral", train_on_completions=True), template=LATE_SYSTEM)
    sample = sample_of(("system", "Be brief."), *turns)
    example = encode(sample)

    prompt = encode.render(Sample("row", sample.turns[:-1], ()), add_generation_prompt=True)
    assert f"[INST]Be brief.\n\n{turns[-2][1]}[/INST]" in prompt
    assert encode.render(sample) == f"{prompt}{turns[-1][1]}</s>"
    assert example.tokens.tolist() == own_ids("pixtral", encode, encode.render(sample), ())
    assert supervised_texts(example, encode) == [f"{text}</s>" for role, text in turns if role == "assistant"]


def test_system_prompt_that_is_dropped(encoder: Encoding) -> None:
    """A template that never shows the system prompt makes the row a bad one."""
    template = "".join(LATE_SYSTEM.split("{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}"))
    encode = attrs.evolve(encoder("pixtral"), template=template)

    with pytest.raises(SampleError, match=r"^rows row 3: the chat template drops the system prompt"):
        encode(sample_of(("system", "And then?"), *TALK))


# Where a template begins to write a message's content, and how it ends the turn.
CONTENT = {
    **dict.fromkeys(("internvl", "lfm2_vl"), ("{% if message['content'] is string %}", "{{ '<|im_end|>\n' }}")),
    "kimi_vl": ("{% if message['content'] is string %}", "<|im_end|>"),
    "aya_vision": ("{% if message['content'] is string %}", "<|END_OF_TURN_TOKEN|>"),
    **dict.fromkeys(
        ("idefics2", "idefics3", "smolvlm"), ("{% for part in message['content'] %}", "<end_of_utterance>\n")
    ),
    **dict.fromkeys(("qwen2_vl", "qwen3_vl"), ("{% if message['content'] is string %}", "<|im_end|>\n")),
}


def tag_generation(family: str) -> str:
    """Put transformers' generation tags around what an assistant writes, its end-of-turn token included."""
    opening, closing = CONTENT[family]
    head, _, rest = str(FAMILIES[family].template).rpartition(opening)
    body, _, tail = rest.partition(closing)
    body = opening + body + END_OF_TURN[family].removeprefix("<|END_RESPONSE|>")
    tagged = f"{{% generation %}}{body}{{% endgeneration %}}"
    # A line break behind a tag would be swallowed with it.
    line_break = "{{ '\n' }}" if "\n" in closing else ""
    return f"{head}{{% if message['role'] == 'assistant' %}}{tagged}{{% else %}}{body}{{% endif %}}{line_break}{tail}"


@pytest.mark.parametrize("family", CONTENT)
def test_masks_are_transformers(family: str, encoder: Encoding) -> None:
    """The mask is what transformers gives for the template with generation tags, token for token."""
    encode = encoder(family, train_on_completions=True)
    sample = sample_of(*TALK)
    content: Any = [[{"type": "text", "text": turn.text}] for turn in sample.turns]
    messages = [{"role": turn.role, "content": part} for turn, part in zip(sample.turns, content, strict=True)]

    tagged = encode.tokenizer.apply_chat_template(
        messages,
        chat_template=tag_generation(family),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    example = encode(sample)

    n_bos = len(example.tokens) - len(tagged["input_ids"])
    assert n_bos in (0, 1)
    assert tagged["input_ids"] == example.tokens[n_bos:].tolist()
    lead = example.supervised[n_bos:] & ~np.array(tagged["assistant_masks"], dtype=bool)
    assert (np.array(tagged["assistant_masks"], dtype=bool) <= example.supervised[n_bos:]).all()
    # A space between the prompt and the answer is the model's to write, where the template writes it.
    assert {encode.tokenizer.decode([token]) for token in example.tokens[n_bos:][lead]} <= {LEAD.get(family, "")}


def test_generation_tags_of_onevision(encoder: Encoding) -> None:
    """LLaVA-OneVision's own tags mark the same answers; they leave the end-of-turn tokens out, which are learned."""
    encode = encoder("llava_onevision", train_on_completions=True)
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in sample_of(*TALK).turns
    ]
    tagged = encode.tokenizer.apply_chat_template(
        messages,
        chat_template=FAMILIES["llava_onevision"].template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = np.array(tagged["input_ids"]), np.array(tagged["assistant_masks"], dtype=bool)
    marked = Example(source="", tokens=ids, supervised=mask, placeholders=mask, inputs={}, image_sizes=())

    theirs = [text.removeprefix("\n") + "<|im_end|>" for text in supervised_texts(marked, encode)]
    assert theirs == supervised_texts(encode(sample_of(*TALK)), encode)


def unlearned(sample: Sample, number: int) -> Sample:
    """Mark a turn of a sample as not to be learned."""
    turns = (attrs.evolve(turn, learned=at != number) for at, turn in enumerate(sample.turns))
    return attrs.evolve(sample, turns=tuple(turns))


@pytest.mark.parametrize("only_answers", [True, False], ids=["answers", "all text"])
@every_family
def test_turn_that_is_not_learned(family: str, only_answers: bool, encoder: Encoding) -> None:
    """An answer that is marked as not to be learned is read as ever, and neither it nor its end is learned."""
    number = 3
    encode, answers = encoder(family, train_on_completions=only_answers), encoder(family, train_on_completions=True)
    whole, example = encode(LONG), encode(unlearned(LONG, number))
    starts = np.flatnonzero(np.diff(answers(LONG).supervised.astype(int)) == 1) + 1
    lost = np.arange(len(whole.tokens)) >= starts[1]
    lost &= answers(LONG).supervised & (np.arange(len(whole.tokens)) < starts[2])

    assert example.tokens.tolist() == whole.tokens.tolist()
    assert example.supervised.tolist() == (whole.supervised & ~lost).tolist()
    assert LONG.turns[number].text not in "".join(supervised_texts(example, encode))


def test_question_that_is_not_learned(encoder: Encoding) -> None:
    """Where all text is learned a question cannot be left out; where only answers are it is left out as ever."""
    marked = unlearned(LONG, 2)

    with pytest.raises(SampleError, match=r"^rows row 3: turn 3 is the user's .*data.train_on_completions = true"):
        encoder("qwen3_vl")(marked)
    encode = encoder("qwen3_vl", train_on_completions=True)
    assert encode(marked).supervised.tolist() == encode(LONG).supervised.tolist()


def test_row_of_which_nothing_is_learned(encoder: Encoding) -> None:
    """A row whose only answer is not to be learned is a bad row, whatever is learned of others."""
    with pytest.raises(SampleError, match=r"^rows row 3: no token is supervised"):
        encoder("qwen3_vl", train_on_completions=True)(unlearned(ONE, 1))
    with pytest.raises(SampleError, match=r"^rows row 3: a turn is marked as not to be learned"):
        encoder("qwen3_vl", chat_template="plain", assistant_id=5)(unlearned(ONE, 1))


@every_family
@pytest.mark.parametrize("images", [(), (picture(),)])
def test_image_token_in_the_text(family: str, images: tuple[Image.Image, ...], encoder: Encoding) -> None:
    """A text that holds the image token itself is a bad row, with images and without."""
    encode = encoder(family)
    content = ["<>"] * len(images)
    sample = sample_of(("user", *content, f"What is {encode.image_token}?"), ("assistant", "a"), images=images)

    with pytest.raises(SampleError, match=rf"^rows row 3: .*{len(images)} images"):
        encode(sample)


def test_image_in_an_answer(encoder: Encoding) -> None:
    """An image in an assistant turn is a bad row."""
    sample = sample_of(("user", "Draw it."), ("assistant", "<>", "Here."), images=(picture(),))

    with pytest.raises(SampleError, match=r"^rows row 3: an assistant turn holds an image"):
        encoder("qwen3_vl")(sample)
