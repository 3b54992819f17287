"""From a sample to tokens, for every family, with its own processor: what is seen, what is learned, what is refused."""

import functools
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.models.encode.conversations import (
    END_OF_TURN,
    FAMILIES,
    LEAD,
    LONG,
    ONE,
    REFUSES_SYSTEM,
    TEXT,
    TWO,
    every_family,
    own_ids,
    picture,
    sample_of,
    supervised_texts,
)
from vlora import Sample
from vlora.data.format.samples import format_sample
from vlora.errors import SampleError
from vlora.models import Encoder

Encoding = Callable[..., Encoder]


TRIMS = ("gemma3", "gemma4", "gemma4_moe", "qwen3_5")  # their templates trim every text


IMAGES_FIRST = ("llava", "llava_next", "llava_onevision", "aya_vision")  # their own templates put images before texts


WITHOUT_BOS = ("kimi_vl",)  # it names a BOS token that nothing writes


AROUND_IMAGES = (
    *("<|vision_start|>", "<|vision_end|>", "<|media_start|>", "<|media_content|>", "<|media_end|>"),
    *("<start_of_image>", "<end_of_image>", "<|begin_of_image|>", "<|end_of_image|>", "<|image>", "<image|>"),
)


PER_TOKEN = ("cross_attention_mask", "images_seq_mask", "mm_token_type_ids")


SAMPLES = {"single turn": ONE, "two images": TWO, "text only": TEXT, "multi-turn": LONG}


every_sample = pytest.mark.parametrize("name", SAMPLES)


def answers_of(sample: Sample, family: str) -> list[str]:
    return [turn.text + END_OF_TURN[family] for turn in sample.turns if turn.role == "assistant"]


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
    assert (example.tokens.dtype.name, example.supervised.dtype.name) == ("int32", "bool")
    bos = encode.tokenizer.bos_token_id
    if family in WITHOUT_BOS:
        assert bos not in example.tokens
    elif bos is not None:
        assert example.tokens[0] == bos
        assert (example.tokens == bos).sum() == 1
    assert example.image_sizes == tuple(image.size for image in sample.images)


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


@every_family
def test_nothing_left_to_learn(family: str, encoder: Encoding) -> None:
    """A row whose answers all lie beyond max_seq_length is a bad row."""
    whole = encoder(family, train_on_completions=True)(TEXT)
    first = int(whole.supervised.argmax())

    with pytest.raises(SampleError, match=rf"^rows row 3: no token is supervised.*data.max_seq_length={first}"):
        encoder(family, train_on_completions=True, max_seq_length=first)(TEXT)


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
