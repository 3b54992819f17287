"""Questions as mlx-vlm's generation is asked them, and its failures as one sentence."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.models.encode.conversations import LONG, ONE, sample_of
from vlora.errors import AnswerError, SampleError
from vlora.models import Encoder
from vlora.models.encode import generate
from vlora.models.encode.generate import LONGEST_REASON, answer, answer_sample
from vlora.recipe.schema import EvalSection

Encoding = Callable[..., Encoder]


class Answers:
    """Stands for mlx-vlm's generation: keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, module: Any, processor: Any, prompt: str, *, image: Any, **options: Any) -> Any:
        """Keep the question, and answer it."""
        del module, processor, options
        self.asked.append((prompt, image))
        return type("Result", (), {"text": " A red square. \n"})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Put a stand-in in the place of mlx-vlm's generation."""
    made = Answers()
    monkeypatch.setattr(generate, "generate", made)
    return made


def test_the_first_question_is_asked(encoder: Encoding, answers: Answers) -> None:
    """Of a conversation the model is shown what stands before its first answer, images and all, as in training."""
    encode = encoder("qwen2_vl", train_on_completions=True)

    found = answer_sample(None, encode, LONG, EvalSection(answer_rows=1))

    ((prompt, images),) = answers.asked
    assert found[0].startswith("A house.")
    assert found[1] == "A red square."
    assert encode.render(LONG).startswith(prompt)
    assert "A house." not in prompt
    assert len(images) == 1


def test_failures_are_one_sentence(encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever mlx-vlm raises is named with its type, on one line, and shortened."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("no such\n  key " + "x" * 999)

    monkeypatch.setattr(generate, "generate", fail)
    with pytest.raises(AnswerError, match=r"^cannot be asked through mlx-vlm: KeyError: 'no such") as caught:
        answer_sample(None, encoder("qwen2_vl"), ONE, EvalSection(answer_rows=1))

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LONGEST_REASON + 60


def test_there_has_to_be_a_question(encoder: Encoding) -> None:
    """A conversation without a turn of the user is refused before any model is asked."""
    for sample in (sample_of(), sample_of(("assistant", "Hello."))):
        with pytest.raises(SampleError, match=r"^rows row 3: there is no turn to answer"):
            answer(None, encoder("qwen2_vl"), sample)  # type: ignore[arg-type]
