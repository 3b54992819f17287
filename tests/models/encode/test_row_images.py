"""The answers of a row: images read and processed once, and all as it is of each answer alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tests.checkpoints import FAMILIES
from tests.training import picture
from tests.usual import usual
from vlora import models, parse_recipe
from vlora.build import load_data
from vlora.errors import SampleError
from vlora.features.cache import FeatureCache
from vlora.features.processed import DeferredInputs, Processed, ProcessedCache
from vlora.models.encode.row_images import RowImages, exchange_answer, is_same
from vlora.types import Example, Sample

CheckpointFactory = Callable[[str], Path]

IMAGE, MARK = 9, 5
PLAIN = np.array([1, IMAGE, 2, 3, 6], dtype=np.int32)
EXPANDED = np.array([1, IMAGE, IMAGE, IMAGE, 2, 3, 6], dtype=np.int32)
PIXELS = np.arange(12, dtype=np.float32).reshape(3, 4)
ROW: dict[str, Any] = {"prompt": "What is it?", "chosen": "a red square", "images": [picture(48, 32, 1)]}
ROWS = (
    {**ROW, "rejected": "two hats and a tree"},
    {**ROW, "rejected": "a red squares"},
    {**ROW, "rejected": "no", "images": [picture(48, 32, 1), picture(90, 40, 2)]},
)


def processed(**inputs: Any) -> Processed:
    """Give what a processor might make of the row."""
    return Processed(EXPANDED, {"pixel_values": PIXELS, **inputs}, ((4, 4),))


def exchange(found: Processed, *others: int) -> Processed | None:
    """Exchange what follows the image and one token of text."""
    return exchange_answer(PLAIN, found, np.array([1, IMAGE, 2, *others], dtype=np.int32), IMAGE, frozenset({MARK, 6}))


def answers_of(sample: Sample) -> list[Sample]:
    """Divide a pair into rows of one answer."""
    return [attrs.evolve(sample, turns=turns, rejected=()) for turns in (sample.turns, sample.rejected)]


def assert_same(found: Example, alone: Example) -> None:
    """Compare two examples to the bit."""
    for name in ("tokens", "supervised", "placeholders", "inputs", "image_sizes", "image_keys"):
        assert is_same(getattr(found, name), getattr(alone, name)), name


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[str]) -> None:
    """Note each call of one of the encoder's methods."""
    run = getattr(models.Encoder, name)

    def call(*given: Any) -> Any:
        calls.append(name)
        return run(*given)

    monkeypatch.setattr(models.Encoder, name, call)


@pytest.mark.parametrize("family", usual(FAMILIES))
def test_answers_are_encoded_as_they_are_alone(
    family: str, checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, masks, pixels and all other inputs are equal to the bit; the processor runs for the first answer only."""
    keys = {"model.path": str(checkpoint(family)), "data.path": "-", "train.objective": "dpo"}
    data = load_data(parse_recipe("", keys), ROWS)
    encoder, read, decoded = data.encoder, list[str](), list[str]()
    alone = [[encoder(answer) for answer in answers_of(data.train[number])] for number in range(len(ROWS))]
    for name, calls in (("_read_images", read), ("_decode", decoded)):
        count_calls(monkeypatch, name, calls)

    found = [encoder.encode_answers(answers_of(data.train[number])) for number in range(len(ROWS))]

    for pair, expected in zip(found, alone, strict=True):
        for one, other in zip(pair, expected, strict=True):
            assert_same(one, other)
    assert len(read) == len(ROWS), "files were read for each answer"
    assert len(decoded) == sum(len(row["images"]) for row in ROWS), "images were decoded for each answer"


def test_a_processor_that_has_more_of_an_answer_is_asked_for_each(
    checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that depends on an answer, and not on its length, shows on a blank image: nothing is exchanged then."""
    keys = {"model.path": str(checkpoint("qwen3_vl")), "data.path": "-", "train.objective": "dpo"}
    data = load_data(parse_recipe("", keys), ROWS[:1])
    run, n_runs = type(data.encoder.processor_call).__call__, list[str]()

    def call(self: Any, written: Any, images: Any, source: str) -> Any:
        tokens, inputs = run(self, written, images, source)
        n_runs.append(source)
        return tokens, {**inputs, "sum": np.array([int(tokens.sum())])}

    monkeypatch.setattr(type(data.encoder.processor_call), "__call__", call)

    chosen, rejected = data.encode(data.train[0])

    assert [int(one.inputs["sum"][0]) for one in (chosen, rejected)] == [
        int(one.tokens.sum()) for one in (chosen, rejected)
    ]
    assert n_runs.count(chosen.source) == 2


def test_a_tokenizer_that_does_not_tell_its_added_tokens(
    checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mistral-common's: the processor is asked for each answer."""
    keys = {"model.path": str(checkpoint("qwen3_vl")), "data.path": "-", "train.objective": "dpo"}
    data = load_data(parse_recipe("", keys), ROWS[:1])
    alone = [data.encoder(answer) for answer in answers_of(data.train[0])]
    for owner in type(data.encoder.tokens.tokenizer).__mro__:
        if "get_added_vocab" in vars(owner):
            monkeypatch.delattr(owner, "get_added_vocab")

    found = load_data(parse_recipe("", keys), ROWS[:1]).encode(data.train[0])

    assert data.encoder.tokens.added is None
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other)


def test_answers_with_features_are_recalled(checkpoint: CheckpointFactory) -> None:
    """With a memory of rows both answers are put there by one call of the processor, and come back alike."""
    keys = {"model.path": str(checkpoint("qwen3_vl")), "data.path": "-", "train.objective": "dpo"}
    data = load_data(parse_recipe("", keys), ROWS[:1])
    cache = FeatureCache(memory_bytes=2**24)
    encoder = data.encoder.with_image_keys(ProcessedCache(cache, lambda _: True))
    samples = answers_of(data.train[0])

    first, again = encoder.encode_answers(samples), encoder.encode_answers(samples)

    for one, other in zip(first, again, strict=True):
        assert isinstance(other.inputs, DeferredInputs)
        assert_same(attrs.evolve(other, inputs=dict(other.inputs)), one)


def test_an_answer_is_exchanged() -> None:
    """Tokens behind what both rows share are replaced; numbers of tokens follow, other arrays are the same ones."""
    kinds = np.array([[0, 1, 1, 1, 0, 0, 0]], dtype=np.int32)

    found = exchange(processed(kinds=kinds), 3, 4, 4, 6)

    assert found is not None
    assert found.tokens.tolist() == [1, IMAGE, IMAGE, IMAGE, 2, 3, 4, 4, 6]
    assert found.tokens.dtype == np.int32
    assert found.inputs["pixel_values"] is PIXELS
    assert found.inputs["kinds"].tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert found.image_sizes == ((4, 4),)


@pytest.mark.parametrize(
    ("found", "others"),
    [
        (processed(), (3, IMAGE, 6)),
        (processed(), (3, MARK, 6)),
        (processed(kinds=np.array([[0, 1, 1, 1, 0, 0, 1]])), (4, 6)),
        (processed(places=np.zeros((1, 7), dtype=np.float32)), (4, 6)),
        (processed(each=[np.zeros((2, 7), dtype=np.float32)]), (4, 6)),
        (processed(), (3, 6, 4)),
        (attrs.evolve(processed(), tokens=np.array([1, IMAGE, IMAGE, 2, 4, 6], dtype=np.int32)), (4, 6)),
        (attrs.evolve(processed(), inputs=DeferredInputs((), {}, processed)), (4, 6)),
    ],
    ids=["an image", "a mark", "numbers differ", "floats", "a list", "only longer", "other ids", "deferred"],
)
def test_what_does_not_follow_is_left_to_the_processor(found: Processed, others: tuple[int, ...]) -> None:
    """The processor is asked wherever the first answer does not say all."""
    assert exchange(found, *others) is None


def test_a_refused_answer_leaves_the_first_one() -> None:
    """What is known stays that of the last answer that was processed."""
    row, made = RowImages(), processed()

    def fail() -> Processed:
        msg = "refused"
        raise SampleError(msg)

    assert row.process(PLAIN, lambda: made, lambda *_: None) is made
    with pytest.raises(SampleError, match="refused"):
        row.process(PLAIN, fail, lambda *_: None)
    assert row.process(PLAIN, fail, lambda _, found, __: found) is made


def test_outputs_are_compared_to_the_bit() -> None:
    """Types, shapes, names and their order count."""
    made = processed(sizes=[1, (2, 3)])

    assert is_same(made, attrs.evolve(made, inputs=dict(made.inputs)))
    for other in (
        attrs.evolve(made, inputs={**made.inputs, "sizes": [1, (2, 4)]}),
        attrs.evolve(made, inputs={**made.inputs, "pixel_values": PIXELS.astype(np.float64)}),
        attrs.evolve(made, inputs=dict(reversed(list(made.inputs.items())))),
        attrs.evolve(made, tokens=PLAIN),
    ):
        assert not is_same(made, other)
