"""Conversations: pieces add up to the answer that a whole decoding gives, and what was said stays as context."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.training import Trainable, make_trainable, picture
from vlora import answer, format_sample, models
from vlora.errors import SampleError
from vlora.models.generation.talk import Talk
from vlora.types import ImageSlot, Turn


def open_talk(folder: Path, n_tokens: int = 12, **options: object) -> tuple[Talk, Trainable, models.Encoder]:
    """Open a tiny model whose adapter writes something."""
    made = make_trainable(folder)
    made.backbone.module.load_weights(list(made.state.params.items()), strict=False)
    files = models.find_model(made.recipe.model)
    processor = models.load_processor(files, made.recipe.model)
    encoder = models.make_encoder(processor, files.config, files.family, made.recipe.data)
    settings = models.AnswerOptions(max_new_tokens=n_tokens, **options)  # type: ignore[arg-type]
    return Talk(backbone=made.backbone, encoder=encoder, options=settings), made, encoder


@pytest.mark.parametrize("family", ["qwen3_vl", pytest.param("paligemma", marks=pytest.mark.slow), "llava"])
def test_pieces_are_the_whole_answer(family: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The first answer is that of `vlora.answer` to the same question, and tokens are drawn without images in them."""
    talk, made, encoder = open_talk(checkpoint(family))
    picture(40, 40, 4).save(tmp_path / "a.png")
    pieces = list(talk.ask("What is it?", [str(tmp_path / "a.png")]))
    row = {"image": str(tmp_path / "a.png"), "question": "What is it?", "answer": "?"}
    expected = answer(made.backbone, encoder, format_sample(row), max_new_tokens=12)
    assert "".join(pieces) == expected
    # A model with random weights may end its answer at once.
    assert len(pieces) > 1 or not expected
    assert talk.n_tokens <= 12
    assert talk.turns[-1:] == ([Turn("assistant", (expected,))] if expected else [])


def test_what_was_said_is_context(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A second question is asked behind the first one's answer, with its images, as such a row is trained."""
    talk, made, encoder = open_talk(checkpoint("qwen3_vl"), 6)
    talk.system = "Be brief."
    for number, size in enumerate(((48, 32), (32, 64))):
        picture(*size, number).save(tmp_path / f"{number}.png")
    first = "".join(talk.ask("What is it?", [str(tmp_path / "0.png")]))
    second = "".join(talk.ask("And now?", [str(tmp_path / "1.png")]))
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2
    assert talk.turns[2].parts == (ImageSlot(1), "And now?")
    again = attrs.evolve(talk, turns=talk.turns[:2], images=talk.images[:1], system="Be brief.")
    assert "".join(again.ask("And now?", [str(tmp_path / "1.png")])) == second
    alone = attrs.evolve(talk, turns=[], images=[])
    assert "".join(alone.ask("What is it?", [str(tmp_path / "0.png")])) == first
    del made, encoder


def test_an_answer_that_is_ended(checkpoint: Callable[[str], Path]) -> None:
    """What there is of it stays in the conversation; a question that cannot be asked leaves no trace."""
    talk, _, _ = open_talk(checkpoint("qwen3_vl"))
    writing = talk.ask("Say hi")
    piece = next(writing)
    writing.close()
    assert talk.turns == [Turn("user", ("Say hi",)), Turn("assistant", (piece,))]
    with pytest.raises(SampleError, match=r"nowhere\.png"):
        next(talk.ask("What is it?", ["nowhere.png"]))
    assert len(talk.turns) == 2
    talk.begin_anew()
    assert (talk.turns, talk.images) == ([], [])


def test_temperature(checkpoint: Callable[[str], Path]) -> None:
    """Tokens are drawn by the seed alone."""
    talks = [open_talk(checkpoint("qwen3_vl"), temperature=2.0, seed=seed)[0] for seed in ("a", "a", "b")]
    one, same, other = ("".join(talk.ask("Say hi")) for talk in talks)
    assert one == same
    assert one != other
