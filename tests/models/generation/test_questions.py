"""Questions are what stands before the first token of an answer that is learned."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.models.encode.conversations import LONG, ONE, picture, sample_of
from vlora.errors import LongRowError, SampleError
from vlora.models import Encoder
from vlora.models.generation.questions import Questions, split_question

Encoding = Callable[..., Encoder]


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "gemma3", "mistral3"])
@pytest.mark.parametrize("masks", [True, False])
def test_a_prompt_is_what_the_mask_says(family: str, masks: bool, encoder: Encoding) -> None:
    """The tokens before the answer are those of the row in training, whether or not training masks them."""
    found = Questions(encoder(family, train_on_completions=masks))(ONE)
    trained = encoder(family, train_on_completions=True)(ONE)
    learned = int(trained.supervised.argmax())

    assert found.prompt.length == learned
    assert found.prompt.example.tokens[:learned].tolist() == trained.tokens[:learned].tolist()
    assert found.expected == ONE.turns[-1].text.strip()
    assert encoder(family).render(ONE).startswith(found.text)


def test_the_first_question_is_asked(encoder: Encoding) -> None:
    """Of a conversation the model is shown what stands before its first answer, images and all, as in training."""
    found = Questions(encoder("qwen2_vl"))(LONG)

    assert found.expected.startswith("A house.")
    assert "A house." not in found.text
    assert len(found.prompt.example.image_sizes) == len(found.images) == 1


def test_images_are_named_as_rows_name_them(encoder: Encoding, tmp_path: Path) -> None:
    """By their paths, or by their number where a row holds the picture itself; sizes are those that are stored."""
    path = tmp_path / "a.png"
    picture(width=300, height=200).save(path)
    row = sample_of(
        ("user", "<>", "<>", "Which?"), ("assistant", "This."), images=(str(path), picture(width=40, height=32))
    )
    found = Questions(encoder("qwen2_vl", max_pixels=20_000))(row)

    assert found.images == (str(path), "image 2 of rows row 3")
    assert found.image_sizes == ((300, 200), (40, 32))


def test_an_answer_that_is_not_learned_is_asked_for_all_the_same() -> None:
    """What a row marks as context is a question's answer like any other."""
    turns = (ONE.turns[0], attrs.evolve(ONE.turns[1], learned=False))
    question, answer = split_question(attrs.evolve(ONE, turns=turns))

    assert answer.learned
    assert question.turns == (ONE.turns[0],)


def test_there_has_to_be_a_question() -> None:
    """A conversation without a turn before its answer is refused."""
    for sample in (sample_of(), sample_of(("assistant", "Hello."))):
        with pytest.raises(SampleError, match=r"^rows row 3: there is no turn to answer"):
            split_question(sample)


def test_a_question_has_room_for_an_answer(encoder: Encoding) -> None:
    """One that fills `data.max_seq_length` is not asked, as its row is not learned; a conversation may be longer."""
    length = Questions(encoder("qwen2_vl"))(ONE).prompt.length

    assert Questions(encoder("qwen2_vl", max_seq_length=length + 1))(ONE).prompt.length == length
    tight = Questions(encoder("qwen2_vl", max_seq_length=length))
    with pytest.raises(LongRowError, match=rf"^rows row 3: its question of {length} tokens .*max_seq_length={length};"):
        tight(ONE)
    assert tight.last(attrs.evolve(ONE, turns=ONE.turns[:1])).prompt.length >= length
