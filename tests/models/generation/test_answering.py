"""Rows answered in batches: in their order, as each would be alone, and none for the sake of another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.models.encode.conversations import ONE, picture, sample_of
from tests.training import make_trainable
from vlora import Sample, answer
from vlora.data.prefetch import WorkerPool
from vlora.errors import AnswerError, SampleError
from vlora.models import Answered, Answerer, AnswerOptions, Encoder, MlxVlmBackbone, generating
from vlora.models.generation import answering

Encoding = Callable[..., Encoder]

ROWS = [
    sample_of(
        ("user", "<>", "What is it?" + " Say more." * (number % 3)),
        ("assistant", f"It is {number}."),
        images=(picture(number, width=32 + 16 * (number % 2)),),
    )
    for number in range(7)
]
UNREADABLE = attrs.evolve(ONE, source="rows row 9", images=(Path("nowhere.png"),))


def ask(answerer: Answerer, rows: list[Sample]) -> list[Answered | SampleError]:
    """Answer rows."""
    with generating(answerer.backbone):
        return list(answerer.answer(range(len(rows)), rows.__getitem__))


@pytest.fixture(params=["qwen3_vl", "lfm2_vl"])
def answerer(request: pytest.FixtureRequest, encoder: Encoding, checkpoint: Callable[[str], Path]) -> Answerer:
    """Make what answers with a family whose prompts may differ in length, and with one whose may not."""
    backbone: MlxVlmBackbone = make_trainable(checkpoint(request.param)).backbone
    return Answerer(
        backbone=backbone, encoder=encoder(request.param), options=AnswerOptions(max_new_tokens=5, batch_size=3)
    )


def test_rows_are_answered_in_their_order_as_if_alone(answerer: Answerer) -> None:
    """Whatever shares a batch; with threads that read ahead or without."""
    found = ask(answerer, ROWS)
    alone = ask(attrs.evolve(answerer, options=attrs.evolve(answerer.options, batch_size=1)), ROWS)
    with WorkerPool(2) as workers:
        ahead = ask(attrs.evolve(answerer, workers=workers), ROWS)

    assert [row.index for row in found if isinstance(row, Answered)] == list(range(7))
    assert [row.question.expected for row in found if isinstance(row, Answered)] == [f"It is {n}." for n in range(7)]
    texts = [[row.text for row in rows if isinstance(row, Answered)] for rows in (found, alone, ahead)]
    assert texts[0] == texts[1] == texts[2]
    for sample in (ROWS[4], attrs.evolve(ROWS[4], is_wanted=False)):
        assert answer(answerer.backbone, answerer.encoder, sample, max_new_tokens=5) == texts[0][4]


def test_a_row_that_cannot_be_read_is_none_of_the_others_business(answerer: Answerer) -> None:
    """It comes in its place with its reason, and the rows around it are answered."""
    found = ask(answerer, [*ROWS[:2], UNREADABLE, *ROWS[2:]])

    assert isinstance(found[2], SampleError)
    assert str(found[2]).startswith("rows row 9: cannot read the image")
    assert sum(isinstance(row, Answered) for row in found) == 7


def test_drawn_answers_come_again(answerer: Answerer) -> None:
    """With one seed they are the same in any company, and with another one others."""
    drawn = {}
    for seed, size in (("a", 3), ("a", 1), ("b", 3)):
        options = attrs.evolve(answerer.options, temperature=1.0, seed=seed, batch_size=size)
        rows = ask(attrs.evolve(answerer, options=options), ROWS)
        drawn[seed, size] = [row.text for row in rows if isinstance(row, Answered)]

    assert drawn["a", 3] == drawn["a", 1]
    assert drawn["a", 3] != drawn["b", 3]


def test_answers_that_are_not_whole_are_left_out(answerer: Answerer) -> None:
    """When answers are asked to end, no half of one is given."""
    asks = iter([False] * 12 + [True] * 99)
    found = ask(attrs.evolve(answerer, should_stop=lambda: next(asks)), ROWS)

    assert len(found) < len(ROWS)


def test_what_a_model_raises_is_one_sentence(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the answers, whatever it is; want of memory stays what it is."""

    def fail(*_: Any, **__: Any) -> None:
        msg = "no such\n  layer"
        raise IndexError(msg)

    monkeypatch.setattr(answering, "decode", fail)
    with pytest.raises(AnswerError, match=r"^the model cannot answer: IndexError: no such layer$"):
        ask(answerer, ROWS)


def test_there_has_to_be_a_question(encoder: Encoding, answerer: Answerer) -> None:
    """A conversation without a turn of the user is refused before any model is asked."""
    for sample in (sample_of(), sample_of(("assistant", "Hello."))):
        with pytest.raises(SampleError, match=r"^rows row 3: there is no turn to answer"):
            answer(answerer.backbone, encoder("qwen2_vl"), sample)
