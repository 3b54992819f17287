"""Answers of a batch, token by token, are those of the forward that is trained, and of each question alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.families import FAMILIES
from tests.prove import make_subject, model_type
from vlora import collate
from vlora.models import MlxVlmBackbone, generating
from vlora.models.families.family import Reading
from vlora.models.families.registry import describe_family
from vlora.models.generation.decode import Prompt, decode, with_room
from vlora.models.generation.sampling import Sampler, media_tokens
from vlora.train.state import bound_params
from vlora.types import FloatArray, IntArray

ROOM = 6

QUICK = (
    "falcon_ocr",  # two kinds of positions
    "fastvlm",  # images that expand within the model
    "florence2",  # an encoder and a decoder
    "gemma3",  # windows, and images that see themselves whole
    "gemma3n",  # layers that share keys
    "llava",  # nothing of its own
    "mllama",  # cross-attention
    "molmo2",  # a mask that is made of blocks
    "paligemma",  # prompts that see themselves whole
    "qwen3_5",  # states in place of keys
    "qwen3_vl",  # positions in three dimensions, and features in deeper layers
)
"""Families that are read differently; the others come with `python -m pytest -m families`."""


@contextmanager
def asked(family: str) -> Iterator[tuple[MlxVlmBackbone, list[Prompt]]]:
    """Give a tiny model with adapters that add something, ready to answer, and its questions."""
    subject = make_subject(family)
    backbone = subject.backbone
    prompts = [Prompt(example, int(np.argmax(example.supervised))) for example in subject.examples]
    with bound_params(backbone.module, subject.state.params), generating(backbone):
        yield backbone, prompts


def answer(
    backbone: MlxVlmBackbone, prompts: Sequence[Prompt], reading: Reading | None = None
) -> tuple[list[list[int]], FloatArray]:
    """Answer questions; also give what each token was chosen by, f[ROOM, B, V]."""
    greedy = Sampler(names=[""] * len(prompts), banned=media_tokens(backbone.module, -1))
    seen = []

    def choose(logits: mx.array, number: int) -> IntArray:
        seen.append(np.array(logits.astype(mx.float32)))
        return greedy(logits, number)

    return decode(backbone, prompts, ROOM, choose, (), reading), np.stack(seen)


def trained(backbone: MlxVlmBackbone, prompt: Prompt, tokens: Sequence[int]) -> FloatArray:
    """Compute in one forward, as in training, what each token of an answer is chosen by: f[ROOM, V]."""
    example = with_room(prompt, ROOM)
    whole = example.tokens.copy()
    whole[prompt.length :] = tokens
    batch = collate([attrs.evolve(example, tokens=whole)])
    with backbone.overrides():
        logits = backbone.all_logits(batch.tokens, *backbone.embed(batch))
    found: FloatArray = np.array(logits[0].astype(mx.float32))
    return found[prompt.length - 1 :][:ROOM]


def of_text(prompt: Prompt) -> Prompt:
    """Make a question of text alone, as long as one that shows images."""
    example = prompt.example
    tokens = 2 + np.arange(len(example.tokens), dtype=np.int32) % 7
    none = np.zeros_like(example.placeholders)
    return Prompt(attrs.evolve(example, tokens=tokens, placeholders=none, inputs={}, image_keys=()), prompt.length)


def check(family: str, *, shows_images: bool = True) -> None:
    """Compare answers of all questions together with those of each alone, and with the forward that is trained."""
    with asked(family) as (backbone, questions):
        prompts = questions if shows_images else [of_text(prompt) for prompt in questions]
        together: list[tuple[list[int], FloatArray]] = []
        if backbone.family.forward.reading == "equal":
            for prompt in prompts:
                (tokens, *copies), seen = answer(backbone, [prompt, prompt, prompt])
                assert all(copy == tokens for copy in copies)
                together.append((tokens, seen[:, 0]))
        else:
            answers, seen = answer(backbone, prompts)
            together = [(tokens, seen[:, row]) for row, tokens in enumerate(answers)]
        for prompt, (tokens, by) in zip(prompts, together, strict=True):
            expected = trained(backbone, prompt, tokens)
            spread = max(1.0, float(np.abs(expected).max()))
            assert float(np.abs(by - expected).max()) < 1e-4 * spread, prompt.example.source
            assert answer(backbone, [prompt])[0] == [tokens]


@pytest.mark.parametrize("family", QUICK)
def test_answers_are_those_of_the_trained_forward(family: str) -> None:
    """In batches of unequal prompts each token is the one that training's forward holds for the likeliest."""
    check(family)


@pytest.mark.families
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(QUICK)))
def test_every_family_answers_as_it_is_trained(family: str) -> None:
    """The same for all other families."""
    check(family)


@pytest.mark.parametrize("family", ["minimax_m3_vl", "qwen3_vl"])
def test_questions_of_text_alone(family: str) -> None:
    """Positions that some models keep on themselves are not those of the text read before."""
    check(family, shows_images=False)


@pytest.mark.families
@pytest.mark.parametrize("family", sorted(set(FAMILIES)))
def test_every_family_answers_text_alone(family: str) -> None:
    """All families but encoder-decoders read rows without images."""
    if describe_family(model_type(family)).format.is_encoder_decoder:
        pytest.skip("every row has an image")
    check(family, shows_images=False)


@pytest.mark.parametrize("family", ["gemma3", "paligemma", "qwen3_vl"])
def test_what_is_kept_is_what_would_be_read_anew(family: str) -> None:
    """Keys that are kept give the answers that reading the whole row for every token gives."""
    with asked(family) as (backbone, prompts):
        assert answer(backbone, prompts, "kept")[0] == answer(backbone, prompts, "anew")[0]


def test_a_family_that_is_not_known_reads_anew() -> None:
    """Nothing is supposed of layers that no test has looked at."""
    assert describe_family("of tomorrow").forward.reading == "anew"


def test_answers_end_behind_their_stop() -> None:
    """A row that is over waits for the others, and its answer has nothing behind the token that ends it."""
    with asked("llava") as (backbone, prompts):
        whole, _ = answer(backbone, prompts)
        stop = next(token for token in whole[0] if token not in whole[1])
        rows = Sampler(names=[""] * len(prompts), banned=media_tokens(backbone.module, -1))
        stopped = decode(backbone, prompts, ROOM, rows, (stop,))

    assert stopped[0] == whole[0][: whole[0].index(stop) + 1]
    assert stopped[1] == whole[1]


def test_answers_can_be_left_off() -> None:
    """Between two tokens the answers end when they are asked to."""
    asks = iter([False, True])
    with asked("llava") as (backbone, prompts):
        greedy = Sampler(names=[""] * len(prompts))
        found = decode(backbone, prompts, ROOM, greedy, (), should_stop=lambda: next(asks))

    assert [len(tokens) for tokens in found] == [2] * len(prompts)


def test_room_takes_the_place_of_an_answer() -> None:
    """Behind a question everything is as at the first token of the row's answer; nothing of the others is left."""
    example = make_subject("paligemma").examples[0]
    length = int(np.argmax(example.supervised))
    found = with_room(Prompt(example, length), 9)

    assert len(found.tokens) == length + 9
    assert found.tokens[:length].tolist() == example.tokens[:length].tolist()
    assert set(found.tokens[length:].tolist()) == {example.tokens[length]}
    assert found.supervised.tolist() == [False] * length + [True] * 9
    assert found.inputs["token_type_ids"][0].tolist() == [0] * length + [1] * 9
    assert found.inputs["pixel_values"] is example.inputs["pixel_values"]
