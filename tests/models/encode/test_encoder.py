"""From a sample to tokens, for every family, with its own processor: what is seen, what is learned, what is refused."""

import base64
import functools
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tests.checkpoints import FAMILIES as BUILT
from vlora import Example, Sample, Turn
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder, open_image
from vlora.models.encode.images.resizing import fit_size
from vlora.models.encode.processors import on_host, to_host
from vlora.types import ImageSlot

Encoding = Callable[..., Encoder]

END_OF_TURN = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5"), "<|im_end|>"),
    **dict.fromkeys(("idefics3", "smolvlm"), "<end_of_utterance>"),
    **dict.fromkeys(("pixtral", "mistral3", "llava_next"), "</s>"),
    "llava": "</s>",  # which its template does not write
    **dict.fromkeys(("llava_onevision", "internvl", "lfm2_vl", "kimi_vl"), "<|im_end|>"),
    "idefics2": "<end_of_utterance>",
    "aya_vision": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "gemma3": "<end_of_turn>",
    "glm4v": "<|user|>",  # the next role ends an answer, and generation too; its template writes none after the last
    **dict.fromkeys(("gemma4", "gemma4_moe"), "<turn|>"),
    "mllama": "<|eot_id|>",
    "deepseek_vl_v2": "<\uff5cend\u2581of\u2581sentence\uff5c>",
}
# LLaVA's template writes one too, but its tokenizer drops it when it decodes.
LEAD = dict.fromkeys(("deepseek_vl_v2", "idefics3", "smolvlm"), " ")
STRING_ANSWERS = ("pixtral", "mistral3", "glm4v")
REFUSES_SYSTEM = ("pixtral",)
TRIMS = ("gemma3", "gemma4", "gemma4_moe", "qwen3_5")  # their templates trim every text
IMAGES_FIRST = ("llava", "llava_next", "llava_onevision", "aya_vision")  # their own templates put images before texts
BOS_BY_TOKENIZER = ("llava", "llava_next", "idefics2", "deepseek_vl_v2")  # their templates write none
WITHOUT_BOS = ("kimi_vl",)  # it names a BOS token that nothing writes
AROUND_IMAGES = (
    *("<|vision_start|>", "<|vision_end|>", "<|media_start|>", "<|media_content|>", "<|media_end|>"),
    *("<start_of_image>", "<end_of_image>", "<|begin_of_image|>", "<|end_of_image|>", "<|image>", "<image|>"),
)
PER_TOKEN = ("cross_attention_mask", "images_seq_mask", "mm_token_type_ids")

PREFIX_LANGUAGE_MODELS = ("paligemma", "paligemma2")  # no conversations; tests/models/families/test_gemma.py has them
FAMILIES = {name: spec for name, spec in BUILT.items() if name not in PREFIX_LANGUAGE_MODELS}

every_family = pytest.mark.parametrize("family", FAMILIES)


def picture(seed: int = 0, width: int = 48, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sample_of(*turns: tuple[str, ...], images: tuple[Any, ...] = ()) -> Sample:
    """Make a sample of (role, parts...); a part "<>" is the place of the next image."""
    numbers = iter(range(len(images)))
    return Sample(
        "rows row 3",
        tuple(
            Turn(role, tuple(ImageSlot(next(numbers)) if part == "<>" else part for part in parts))
            for role, *parts in turns
        ),
        images,
    )


ONE = sample_of(("user", "<>", "What is in the image?"), ("assistant", "A red square."), images=(picture(),))
TWO_TURNS = (("user", "<>", "\n", "<>", "\nWhich is larger?"), ("assistant", "The second."))
TWO = sample_of(
    *TWO_TURNS,
    images=(picture(0), picture(1, width=32, height=64)),
)
TEXT = sample_of(("user", "Are there two?"), ("assistant", "Yes."))
LONG = sample_of(
    ("user", "<>", "What is it?"),
    ("assistant", "A house."),
    ("user", "And the other?"),
    ("assistant", "A field under the sky."),
    ("user", "Are there more?"),
    ("assistant", "No."),
    images=(picture(),),
)
TALK = (("user", "Well?"), ("assistant", "It is two."), ("user", "And then?"), ("assistant", "Three."))
SAMPLES = {"single turn": ONE, "two images": TWO, "text only": TEXT, "multi-turn": LONG}

every_sample = pytest.mark.parametrize("name", SAMPLES)


def supervised_texts(example: Example, encode: Encoder) -> list[str]:
    """Decode each run of supervised tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.supervised, [False]])))
    return [
        encode.tokenizer.decode(example.tokens[start:stop]) for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def answers_of(sample: Sample, family: str) -> list[str]:
    return [turn.text + END_OF_TURN[family] for turn in sample.turns if turn.role == "assistant"]


def own_ids(family: str, encode: Encoder, text: str, images: tuple[Image.Image, ...]) -> list[int]:
    """Give the ids that the family's processor makes of a rendered text, called as its own programs call it."""
    bos = encode.tokenizer.bos_token or ""
    if family in BOS_BY_TOKENIZER:
        text, options = text.removeprefix(bos), {}
    else:
        options = {} if family == "llava_onevision" else {"add_special_tokens": False}
    outputs = (
        encode.processor(text=text, images=list(images), **options) if images else encode.tokenizer(text, **options)
    )
    return np.array(outputs["input_ids"]).reshape(-1).tolist()


@every_sample
@every_family
def test_completions(family: str, name: str, encoder: Encoding) -> None:
    """With train_on_completions the supervised tokens are the answers and their end-of-turn tokens, exactly."""
    encode = encoder(family, train_on_completions=True)
    example = encode(SAMPLES[name])

    # A space between the prompt and the answer is the model's to write.
    found = [text.removeprefix(LEAD.get(family, "")) for text in supervised_texts(example, encode)]
    assert found == answers_of(SAMPLES[name], family)
    assert not (example.supervised & example.placeholders).any()


@every_sample
@every_family
def test_all_text(family: str, name: str, encoder: Encoding) -> None:
    """Without train_on_completions all is supervised but position 0, images and the markers around them."""
    encode = encoder(family)
    example = encode(SAMPLES[name])
    markers = [token for token in AROUND_IMAGES if token in encode.tokenizer.get_vocab()]
    left_out = example.placeholders | np.isin(example.tokens, encode.tokenizer.convert_tokens_to_ids(markers))
    left_out[0] = True

    assert example.supervised.tolist() == (~left_out).tolist()
    assert example.placeholders[example.tokens == encode.image_id].all()
    assert example.placeholders.any() == bool(SAMPLES[name].images)


@every_sample
@every_family
def test_tokens_are_the_processors(family: str, name: str, encoder: Encoding) -> None:
    """The ids are those of the family's own processor for the rendered text, with one BOS if the family has one."""
    encode = encoder(family)
    sample = SAMPLES[name]
    example = encode(sample)

    assert example.tokens.tolist() == own_ids(family, encode, encode.render(sample), sample.images)
    assert (example.tokens.dtype, example.supervised.dtype) == (np.int32, np.bool_)
    bos = encode.tokenizer.bos_token_id
    if family in WITHOUT_BOS:
        assert bos not in example.tokens
    elif bos is not None:
        assert example.tokens[0] == bos
        assert (example.tokens == bos).sum() == 1
    assert example.image_sizes == tuple(image.size for image in sample.images)


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


def question(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Read."},
        {"role": "user", "content": [*content, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A house."}]},
    ]


LAYOUTS: dict[str, dict[str, Any]] = {
    "content lists": {"images": [picture()], "messages": question({"type": "image"})},
    "images inside": {"messages": question({"type": "image", "image": picture()})},
    "marker": {
        "image": picture(),
        "conversations": [
            {"from": "system", "value": "Read."},
            {"from": "human", "value": "<image>What is it?"},
            {"from": "gpt", "value": "A house."},
        ],
    },
    "no marker": {
        "images": [picture()],
        "messages": [
            {"role": "system", "content": "Read."},
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": "A house."},
        ],
    },
}


@every_family
def test_layouts_are_one(family: str, encoder: Encoding) -> None:
    """However a row is laid out, the model reads the same and learns the same."""
    encode = encoder(family, train_on_completions=True)
    rows = {name: dict(row) for name, row in LAYOUTS.items()}
    if family in REFUSES_SYSTEM:
        rows = {"columns": {"image": picture(), "question": "What is it?", "answer": "A house."}}
        for name in ("content lists", "images inside", "no marker"):
            rows[name] = {**LAYOUTS[name], "messages": LAYOUTS[name]["messages"][1:]}

    first, *others = (encode(format_sample(row)) for row in rows.values())

    assert "".join(supervised_texts(first, encode)).strip().startswith("A house.")
    for example in others:
        assert example.tokens.tolist() == first.tokens.tolist()
        assert example.supervised.tolist() == first.supervised.tolist()
        assert np.array_equal(example.inputs["pixel_values"], first.inputs["pixel_values"])


SHOWN = tuple(picture(seed, width, 32) for seed, width in enumerate((48, 32, 64)))
LONG_LAYOUTS: dict[str, dict[str, Any]] = {
    # Two questions: about two images, and about one between texts.
    "content lists, images beside": {
        "images": SHOWN,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is larger?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "The second."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "And"}, {"type": "image"}, {"type": "text", "text": "then?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
        ],
    },
    "Qwen: images in the content": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": SHOWN[0]},
                    {"type": "image", "image": SHOWN[1]},
                    {"type": "text", "text": "Which is larger?"},
                ],
            },
            {"role": "assistant", "content": "The second."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And"},
                    {"type": "image", "image": SHOWN[2]},
                    {"type": "text", "text": "then?"},
                ],
            },
            {"role": "assistant", "content": "Three."},
        ],
    },
    "LLaVA and Pixtral: markers in the text": {
        "images": SHOWN,
        "conversations": [
            {"from": "human", "value": "<image><image>Which is larger?"},
            {"from": "gpt", "value": "The second."},
            {"from": "human", "value": "And<image>then?"},
            {"from": "gpt", "value": "Three."},
        ],
    },
    "DeepSeek-VL2: its roles, images in the message": {
        "messages": [
            {"role": "<|User|>", "content": "<image><image>Which is larger?", "images": SHOWN[:2]},
            {"role": "<|Assistant|>", "content": "The second."},
            {"role": "<|User|>", "content": "And<image>then?", "images": SHOWN[2:]},
            {"role": "<|Assistant|>", "content": "Three."},
        ],
    },
}


@every_family
def test_documented_layouts_give_the_familys_ids(family: str, encoder: Encoding) -> None:
    """Several turns with several images, as each family documents them, are the ids of its processor and template."""
    encode = encoder(family, train_on_completions=True)
    samples = {name: format_sample(row) for name, row in LONG_LAYOUTS.items()}

    for name, sample in samples.items():
        example = encode(sample)
        assert example.tokens.tolist() == own_ids(family, encode, encode.render(sample), SHOWN), name
        assert [text.removeprefix(LEAD.get(family, "")) for text in supervised_texts(example, encode)] == answers_of(
            sample, family
        )
    assert len({encode.render(sample) for sample in samples.values()}) == 1


@every_family
def test_break_after_a_marker_is_the_templates(family: str, encoder: Encoding) -> None:
    """LLaVA's layout breaks the line after a marker; where the template does so too, one break remains."""
    encode = encoder(family)
    row = {"image": picture(), "question": "<image>\nWhat is it?", "answer": "A house."}
    text = encode.render(format_sample(row))

    assert text.count(encode.image_token) == 1
    plain = encode.render(format_sample({**row, "question": "<image>What is it?"}))
    assert text.replace("\n", "") == plain.replace("\n", "")
    assert plain.count("\n") <= text.count("\n") <= plain.count("\n") + 1
    written = plain.partition(encode.image_token)[2].partition("What")[0]
    if written.endswith("\n"):
        assert text == plain


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
    head, _, rest = FAMILIES[family].format.template.rpartition(opening)
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
        chat_template=FAMILIES["llava_onevision"].format.template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = np.array(tagged["input_ids"]), np.array(tagged["assistant_masks"], dtype=bool)
    marked = Example(source="", tokens=ids, supervised=mask, placeholders=mask, inputs={}, image_sizes=())

    theirs = [text.removeprefix("\n") + "<|im_end|>" for text in supervised_texts(marked, encode)]
    assert theirs == supervised_texts(encode(sample_of(*TALK)), encode)


@every_family
def test_text_between_images(family: str, encoder: Encoding) -> None:
    """The text between two images stands after the whole of the first and before the whole of the second."""
    encode = encoder(family)
    alone = [encode(sample_of(("user", "<>"), ("assistant", "a"), images=(image,))) for image in TWO.images]
    n_image_tokens = [int((example.tokens == encode.image_id).sum()) for example in alone]
    example = encode(TWO)
    before = np.cumsum(example.tokens == encode.image_id)[~example.placeholders]

    if family not in ("pixtral", "mistral3"):  # they pad the images of a row to one size
        assert set(before.tolist()) <= {0, n_image_tokens[0], sum(n_image_tokens)}
    # Templates that put images first write nothing between them, or a line break.
    assert len(set(before.tolist())) == (2 if family in ("llava_onevision", "aya_vision") else 3)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in IMAGES_FIRST])
def test_position_of_images(family: str, encoder: Encoding) -> None:
    """An image stands where it stood in the text."""
    encode = encoder(family)
    example = encode(sample_of(("user", "Before ", "<>", " after."), ("assistant", "a"), images=(picture(),)))
    image = int(example.placeholders.argmax())

    before = encode.tokenizer.decode(example.tokens[:image])
    for opening in (
        *("<|vision_start|>", "<|media_start|>image<|media_content|>"),
        *("<start_of_image>", "<|begin_of_image|>", "<|image>"),
    ):
        before = before.removesuffix(opening)
    assert before.rstrip().endswith("Before")
    after = "after." if family in TRIMS else " after."
    assert after in encode.tokenizer.decode(example.tokens[image:])


@every_family
def test_resize(family: str, encoder: Encoding) -> None:
    """image_resize_shape gives every image that size, whatever the processor makes of it then."""
    encode = encoder(family, image_resize_shape=(64, 40))

    example = encode(TWO)

    assert example.image_sizes == ((40, 64), (40, 64))
    resized = tuple(image.resize((40, 64), Image.Resampling.BICUBIC) for image in TWO.images)
    assert example.tokens.tolist() == own_ids(family, encode, encode.render(TWO), resized)


@every_family
def test_pixel_budget(family: str, encoder: Encoding) -> None:
    """max_pixels bounds what a family sees of an image, before its processor or in it, and keeps the aspect."""
    row = sample_of(*TWO_TURNS, images=(picture(0, 96, 64), picture(1, 64, 128)))
    encode = encoder(family, max_pixels=3000)
    whole = encoder(family)(row)
    example = encode(row)
    own = getattr(encode.processor, "image_processor", None)
    if hasattr(own, "max_pixels"):
        assert (example.inputs["image_grid_thw"].prod(axis=-1) * 8 * 8 <= 3000).all()
        assert example.placeholders.sum() == 16 < whole.placeholders.sum()
        assert own.max_pixels == 3000 != encoder(family).processor.image_processor.max_pixels
        assert encoder(family, max_pixels=300).processor.image_processor.min_pixels == 300
    else:
        assert example.image_sizes == ((67, 44), (38, 77))
        scaled = tuple(
            image.resize(size, Image.Resampling.BICUBIC)
            for image, size in zip(row.images, example.image_sizes, strict=True)
        )
        assert example.tokens.tolist() == own_ids(family, encode, encode.render(row), scaled)
    (opened,) = encode.open_images(row, 1)
    assert opened.size == example.image_sizes[0]
    assert encoder(family, max_pixels=10**6)(row).image_sizes == whole.image_sizes


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**6))
def test_sizes_fit_a_budget(width: int, height: int, max_pixels: int) -> None:
    """A size is scaled to fewer pixels than the budget, not to many fewer, and not turned."""
    assume(width * height > max_pixels)
    w, h = fit_size((width, height), max_pixels)
    assert 1 <= w <= width
    assert 1 <= h <= height
    assert w * h <= max_pixels < (w + 1) * (h + 1) * 2
    assert (w >= h) if width >= height else (w <= h)


@every_family
def test_text_may_be_cut(family: str, encoder: Encoding) -> None:
    """Rows are cut to max_seq_length in their text, with all that the processor gives per token."""
    whole = encoder(family)(LONG)
    last_image = int(np.flatnonzero(whole.placeholders)[-1])
    for n_tokens in (last_image + 2, len(whole.tokens) - 1, len(whole.tokens), len(whole.tokens) + 1):
        example = encoder(family, max_seq_length=n_tokens)(LONG)

        n_kept = min(n_tokens, len(whole.tokens))
        assert example.tokens.tolist() == whole.tokens[:n_kept].tolist()
        assert example.supervised.tolist() == whole.supervised[:n_kept].tolist()
        assert example.placeholders.sum() == whole.placeholders.sum()
        assert example.inputs.keys() == whole.inputs.keys()
        for name, value in example.inputs.items():
            if name in PER_TOKEN:
                assert np.array_equal(value, whole.inputs[name][:, :n_kept])
            else:
                assert np.array_equal(value, whole.inputs[name])


@every_family
def test_images_are_never_cut(family: str, encoder: Encoding) -> None:
    """A row whose images lie beyond max_seq_length is a bad row; the message says how long it is and what to do."""
    whole = encoder(family)(ONE)
    last_image = int(np.flatnonzero(whole.placeholders)[-1])

    with pytest.raises(SampleError) as caught:
        encoder(family, max_seq_length=last_image)(ONE)
    for word in ("rows row 3: ", f"{len(whole.tokens)}", f"data.max_seq_length={last_image}", "image_resize_shape"):
        assert word in str(caught.value)


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
def test_nothing_left_to_learn(family: str, encoder: Encoding) -> None:
    """A row whose answers all lie beyond max_seq_length is a bad row."""
    whole = encoder(family, train_on_completions=True)(TEXT)
    first = int(whole.supervised.argmax())

    with pytest.raises(SampleError, match=rf"^rows row 3: no token is supervised.*data.max_seq_length={first}"):
        encoder(family, train_on_completions=True, max_seq_length=first)(TEXT)


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


class Counting:
    """A processor that counts its calls."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.n_calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count the call and pass it on."""
        self.n_calls += 1
        return self.processor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Give what the processor has."""
        return getattr(self.processor, name)


@every_family
def test_processor_runs_once_per_row(family: str, encoder: Encoding) -> None:
    """After the first row the processor runs once per row with images, and with all of its images."""
    encode = encoder(family)
    encode.processor = Counting(encode.processor)
    encode(ONE)
    before = encode.processor.n_calls

    for sample in (ONE, TWO, LONG):
        encode(sample)

    assert encode.processor.n_calls == before + 3


@every_family
def test_vocabulary_is_listed_once(family: str, encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every row: it is a new table of a whole vocabulary, during which no other thread runs."""
    encode, listed = encoder(family), []
    encode(ONE)
    for name in ("get_vocab", "added_tokens_decoder"):
        own = getattr(type(encode.tokenizer), name, None)
        if own is not None:
            monkeypatch.setattr(type(encode.tokenizer), name, lambda *args, own=own: listed.append(args) or own(*args))

    for sample in (ONE, TWO, LONG):
        encode(sample)

    assert not listed


@every_family
def test_results_left_on_the_host_are_the_processors(family: str, encoder: Encoding) -> None:
    """`on_host` changes where a processor's results are, not what they are, nor their types."""
    encode = encoder(family)
    seen = []

    def both(*args: Any, **kwargs: Any) -> Any:
        own = dict(processor(*args, **kwargs))
        seen.append((own, dict(on_host(processor)(*args, **kwargs))))
        return own

    processor, encode.processor = encode.processor, both
    for name in ("image_processor", "tokenizer", "full_image_sequence", "image_token"):
        if hasattr(processor, name):
            setattr(both, name, getattr(processor, name))
    encode(TWO)

    assert seen
    for own, found in seen:
        assert own.keys() == found.keys()
        for name, value in own.items():
            left, expected = to_host(found[name]), to_host(value)
            if isinstance(expected, np.ndarray):
                assert (left.dtype, left.shape) == (expected.dtype, expected.shape), name
                assert np.array_equal(left, expected), name
            elif isinstance(expected, list):
                assert all(np.array_equal(a, b) for a, b in zip(left, expected, strict=True)), name
            else:
                assert left == expected, name


@every_family
def test_inputs_stay_on_the_host(family: str, encoder: Encoding) -> None:
    """What the processor gives besides ids comes as numpy arrays, with one entry or more per image."""
    example = encoder(family)(TWO)

    assert "pixel_values" in example.inputs
    for value in example.inputs.values():
        assert not isinstance(value, mx.array)
    assert not {"input_ids", "attention_mask", "labels"} & set(example.inputs)


def test_encoding_is_repeatable(encoder: Encoding) -> None:
    """A row gives the same whatever was encoded before it, and the sample's images stay as they are."""
    encode = encoder("qwen3_vl", image_resize_shape=(32, 32))
    first = encode(ONE)
    pixels = ONE.images[0].tobytes()
    for sample in (TEXT, TWO, LONG):
        encode(sample)
    again = encode(ONE)

    assert again.tokens.tolist() == first.tokens.tolist()
    assert again.supervised.tolist() == first.supervised.tolist()
    for name, value in first.inputs.items():
        assert np.array_equal(value, again.inputs[name])
    assert ONE.images[0].tobytes() == pixels


compose = functools.partial(unicodedata.normalize, "NFC")
answers = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=20)


@pytest.mark.parametrize("family", ["qwen3_vl", "mllama", "pixtral", "deepseek_vl_v2", "smolvlm", "llava"])
@given(texts=st.lists(st.tuples(answers, answers), min_size=1, max_size=3))
def test_any_text(family: str, texts: list[tuple[str, str]], encoder: Encoding) -> None:
    """Whatever is asked and answered, the supervised tokens are the answers, or the row is refused by its name."""
    encode = encoder(family, train_on_completions=True)
    # Hypothesis takes words from the code, too; what stands around images is never learned.
    assume(not any(marker in text for turn in texts for text in turn for marker in AROUND_IMAGES))
    sample = sample_of(*(turn for question, answer in texts for turn in (("user", question), ("assistant", answer))))

    try:
        example = encode(sample)
    except SampleError as error:
        refused = str(error)
        assert refused.startswith("rows row 3: ")
        holds_image = any(encode.image_token in text for turn in texts for text in turn)
        has_white_space = any(answer != answer.strip() for _, answer in texts)
        assert holds_image or has_white_space or "nothing to learn" in refused
        return

    found = "".join(supervised_texts(example, encode))
    expected = "".join(answers_of(sample, family))
    # Spaces that the template writes before an answer are learned with it, and Qwen's tokenizer composes characters.
    assert compose(found).replace(" ", "") == compose(expected).replace(" ", "")


def encoded_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def corner(image: Any) -> tuple[int, ...]:
    opened = open_image(image, "rows row 3", None)

    assert opened.mode == "RGB"
    return opened.getpixel((0, 0))


def test_transparent_images() -> None:
    """Transparent pixels become white, half-transparent ones a mixture, opaque ones stay."""
    assert corner(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == (255, 255, 255)
    assert corner(Image.new("RGBA", (4, 4), (255, 0, 0, 255))) == (255, 0, 0)
    red, green, blue = corner(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert (red, green // 4, blue // 4) == (255, 127 // 4, 127 // 4)
    assert corner(Image.new("LA", (4, 4), (10, 0))) == (255, 255, 255)


def test_palette_images() -> None:
    """A palette's colours come out, and its transparent colour becomes white."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])

    assert corner(palette) == (10, 20, 30)
    assert corner(encoded_bytes(palette)) == (10, 20, 30)
    assert corner(encoded_bytes(palette, transparency=1)) == (255, 255, 255)


def test_grey_images() -> None:
    """Grey pictures of 1, 8 and 16 bits keep their brightness."""
    assert corner(Image.new("1", (4, 4), 1)) == (255, 255, 255)
    assert corner(encoded_bytes(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    deep = Image.fromarray(np.full((4, 4), 77 * 257, dtype=np.uint16))
    assert corner(encoded_bytes(deep)) == (77, 77, 77)
    assert corner(Image.new("CMYK", (4, 4), (0, 0, 0, 0))) == (255, 255, 255)


def test_rotated_images() -> None:
    """A picture that its camera marked as turned is put upright."""
    image = picture(width=48, height=32)
    exif = Image.Exif()
    exif[0x0112] = 6

    assert open_image(encoded_bytes(image, exif=exif), "row", None).size == (32, 48)
    assert open_image(encoded_bytes(image, exif=exif), "row", (10, 20)).size == (20, 10)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "mllama", "pixtral"])
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "LA", "CMYK"])
def test_modes_reach_the_model(family: str, mode: str, encoder: Encoding) -> None:
    """A picture of any mode is encoded like its RGB self."""
    image = picture().convert("L").convert(mode) if mode == "LA" else picture().convert(mode)
    rgb = open_image(image, "row", None)
    turns = (("user", "<>", "What?"), ("assistant", "a"))
    encode = encoder(family)

    found, expected = (encode(sample_of(*turns, images=(one,))) for one in (image, rgb))

    assert np.array_equal(found.inputs["pixel_values"], expected.inputs["pixel_values"])


def test_ways_to_name_an_image(tmp_path: Path) -> None:
    """Paths, bytes, data URIs, PIL images and `datasets` images open alike."""
    image = picture()
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    ways = [image, path, str(path), data, uri, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]

    for way in ways:
        assert open_image(way, "row", None).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("image", "word"),
    [
        ("missing/cat.png", "missing/cat.png"),
        (b"no image", "bytes"),
        ("data:image/png;base64,!!!", "data:image/png"),
        ({"bytes": None, "path": None}, "NoneType"),
        (3, "int"),
        ("a\0b.png", "a"),
    ],
)
def test_unreadable_images(image: Any, word: str) -> None:
    """An image that cannot be read is a bad row, with what it was given as."""
    with pytest.raises(SampleError, match=r"^rows row 3: cannot read the image") as caught:
        open_image(image, "rows row 3", None)

    assert word in str(caught.value)


def test_long_names_are_shown_whole(tmp_path: Path) -> None:
    """The message about a missing image holds its whole path."""
    path = tmp_path / ("a" * 100) / "cat.png"

    with pytest.raises(SampleError, match=str(path)):
        open_image(str(path), "row", None)
