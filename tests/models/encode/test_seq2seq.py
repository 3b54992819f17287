"""Rows of encoder-decoders: what the encoder reads, what the decoder begins with, what is learned."""

from collections.abc import Mapping
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.models.florence2.processing_florence2 import Florence2Processor
from mlx_vlm.models.nemotron_parse.processing_nemotron_parse import (
    NemotronParseImageProcessor,
    NemotronParseProcessor,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from tests.prove import make_subject
from tests.training import picture
from vlora import collate, format_sample, init_state, make_optimizer, make_train_step
from vlora.errors import SampleError
from vlora.models import Encoder, FeatureCache, describe_family, make_encoder
from vlora.models.encode.row_images import is_same
from vlora.models.forward.lm_inputs import PROMPT
from vlora.recipe.schema import DataSection, OptimSection

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<page>")
WORDS = ("What", "does", "the", "image", "describe", "?", "a", "red", "square", "Locate", "it")
BOS, EOS, PAGE = 0, 2, 4


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that puts text between <s> and </s>, as BART's does."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate((*SPECIAL, *WORDS))}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<page>"],
    )


def encoder(family: str, config: Mapping[str, Any] | None = None, **data: Any) -> Encoder:
    """Make the encoder of a tiny model of a family, with mlx-vlm's own processor."""
    processor: Any
    if family == "florence2":
        images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
        images.image_seq_length = 4
        processor = Florence2Processor(image_processor=images, tokenizer=tokenizer())
    else:
        processor = NemotronParseProcessor(NemotronParseImageProcessor(final_size=(16, 32)), tokenizer())
    section = DataSection(path="x", **{"train_on_completions": True, **data})
    return make_encoder(processor, config or {}, describe_family(family), section)


def row(task: str = "<CAPTION>", answer: str = "a red square") -> dict[str, Any]:
    """A task on an image."""
    return {"image": picture(40, 30), "question": task, "answer": answer}


def test_florence_reads_the_task_and_writes_the_answer_between_bos_and_eos() -> None:
    """As transformers shifts labels: the decoder begins with its start token, then writes <s> answer </s>."""
    encode = encoder("florence2", {"text_config": {"decoder_start_token_id": 2}})
    example = encode(format_sample(row(), "row 0"))
    answer = encode.tokenizer("a red square", add_special_tokens=False)["input_ids"]
    task = encode.tokenizer("What does the image describe?")["input_ids"]

    assert example.tokens.tolist() == [2, BOS, *answer, EOS]
    assert example.supervised.tolist() == [False] + [True] * (len(answer) + 2)
    read = example.inputs[PROMPT][0].tolist()
    assert read[-len(task) :] == task
    assert len(set(read[: -len(task)])) == 1
    assert example.inputs["pixel_values"].shape == (1, 3, 64, 64)


def test_nemotron_parse_begins_with_the_task_as_it_is() -> None:
    """No automatic <s> or </s> around the prompt: either makes it end at once."""
    encode = encoder("nemotron_parse")
    example = encode(format_sample(row("</s><s><page>"), "row 0"))
    answer = encode.tokenizer("a red square", add_special_tokens=False)["input_ids"]

    assert example.tokens.tolist() == [EOS, BOS, PAGE, *answer, EOS]
    assert example.supervised.tolist() == [False] * 3 + [True] * 4
    assert sorted(example.inputs) == ["pixel_values"]


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_only_one_task_on_one_image_is_a_row(family: str) -> None:
    """Conversations, system prompts and further images would be read by nobody."""
    encode = encoder(family)
    talk = [
        {"role": role, "content": "<image>a" if not at else "a"} for at, role in enumerate(["user", "assistant"] * 2)
    ]
    for wrong, found in (
        ({"question": "What", "answer": "a"}, "turns of user, assistant and 0 images"),
        ({"messages": talk, "image": picture(8, 8)}, "turns of user, assistant, user, assistant and 1 images"),
        ({"images": [picture(8, 8)] * 2, "question": "What", "answer": "a"}, "turns of user, assistant and 2 images"),
    ):
        with pytest.raises(SampleError, match=f"row 7: found {found}; this model reads one task on one image"):
            encode(format_sample(wrong, "row 7"))
    thinking = {"role": "assistant", "content": "a", "thinking": "Hm."}
    with pytest.raises(SampleError, match="row 7: the row has tools, a thought or a mark"):
        encode(format_sample({"messages": [talk[0], thinking], "image": picture(8, 8)}, "row 7"))


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_answers_to_one_task_are_encoded_as_they_are_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is decoded once; another task is another row, whatever it stands beside."""
    encode = encoder(family)
    answers = [format_sample(row(answer=answer), "row 0") for answer in ("a red square", "it")]
    other = format_sample(row("Locate it"), "row 0")
    alone = [encode(sample) for sample in (*answers, other)]
    run, decoded = Encoder._decode, list[str]()

    def decode(self: Encoder, content: Any, source: str) -> Any:
        decoded.append(source)
        return run(self, content, source)

    monkeypatch.setattr(Encoder, "_decode", decode)

    found = encode.encode_answers([*answers, other])

    assert len(decoded) == 2
    for one, expected in zip(found, alone, strict=True):
        for name in ("tokens", "supervised", "placeholders", "inputs", "image_sizes"):
            assert is_same(getattr(one, name), getattr(expected, name)), name


def test_a_long_answer_is_cut_and_the_task_is_not() -> None:
    """`data.max_seq_length` counts what the decoder writes; the encoder's ids may be as many by chance."""
    encode = encoder("florence2", max_seq_length=4)
    whole = encoder("florence2")(format_sample(row(answer="a red square a red square it it it"), "row 0"))
    example = encode(format_sample(row(answer="a red square a red square it it it"), "row 0"))

    assert len(whole.tokens) == whole.inputs[PROMPT].shape[1]
    assert example.tokens.tolist() == whole.tokens[:4].tolist()
    np.testing.assert_array_equal(example.inputs[PROMPT], whole.inputs[PROMPT])


def test_a_question_is_put_as_generation_takes_it() -> None:
    """The processor expands a task itself."""
    question = format_sample(row(), "row 0")
    question = attrs.evolve(question, turns=question.turns[:1])
    assert encoder("florence2").prompt(question) == "<CAPTION>"


@pytest.mark.parametrize("family", ["florence2", "nemotron_parse"])
def test_encoded_rows_train(family: str) -> None:
    """Rows of both families' own processors go through the step, and their loss falls."""
    subject = make_subject(family)
    encode = encoder(family)
    if family == "florence2":
        subject.backbone.module.config.image_token_id = encode.processor.image_token_id
    tasks = ("<CAPTION>", "Locate it") if family == "florence2" else ("</s><s><page>", "</s><s>Locate")
    batch = collate([encode(format_sample(row(task), f"row {number}")) for number, task in enumerate(tasks)])
    optimizer = make_optimizer(OptimSection(name="adam"))
    step, state = make_train_step(subject.backbone, optimizer), init_state(subject.backbone, optimizer)
    losses = []
    for _ in range(12):
        state, output = step(state, batch, 0.02)
        losses.append(float(output.nll_sum))
    assert losses[-1] < 0.5 * losses[0]


def test_kept_features_are_of_the_task_too() -> None:
    """The same image and the same answer to two tasks: the encoder reads something else."""
    subject = make_subject("florence2")
    subject.backbone.keep_features(FeatureCache(memory_bytes=10**8))
    first, second, _ = (attrs.evolve(example, image_keys=("one",)) for example in subject.examples)
    other = attrs.evolve(second, tokens=first.tokens, supervised=first.supervised, placeholders=first.placeholders)
    kept = [subject.backbone.embed(collate([example]))[0]["encoder_embeds"] for example in (first, other, first)]

    assert kept[0].shape != kept[1].shape or not mx.array_equal(kept[0], kept[1])
    assert mx.array_equal(kept[0], kept[2])


def test_boxes_of_pairs() -> None:
    """Boxes are written into the answer as Florence-2 writes them; where that is not known the row is refused."""
    row = {
        "image": picture(100, 80),
        "question": "Locate it",
        "answer": "<bbox>",
        "objects": {"bbox": [[10, 10, 50, 40]]},
    }
    encode = encoder("florence2")
    places = "<loc_100><loc_125><loc_500><loc_500>"

    assert encode.write_boxes(format_sample(row)).turns[1].text == places
    plain = format_sample({**row, "answer": places, "objects": None})
    assert encode(format_sample(row)).tokens.tolist() == encode(plain).tokens.tolist()
    with pytest.raises(SampleError, match="family writes them is not known"):
        encoder("nemotron_parse")(format_sample(row))
