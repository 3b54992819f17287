"""Answers that are not those of training are found."""

from typing import Any

import mlx.core as mx
import pytest

from tests.checking import subject_of
from vlora.doctor.model.answers import check_answers
from vlora.errors import CheckError
from vlora.models.generation import decode
from vlora.models.generation.words import embed_words


@pytest.mark.parametrize("family", ["llava", "qwen3_5", "florence2"])
def test_answers_are_those_of_training(family: str) -> None:
    """Keys kept, states kept for prompts of one length, and rows read anew."""
    assert "questions, in a batch and alone; off from training by" in check_answers(subject_of(family))


def test_answers_that_are_read_otherwise_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that scales its embeddings in a question, and not those of an answer's tokens, is found."""
    subject = subject_of("llava")

    def embed(*given: Any) -> dict[str, mx.array]:
        return {name: 3 * value for name, value in embed_words(*given).items()}

    monkeypatch.setattr(decode, "embed_words", embed)

    with pytest.raises(CheckError, match=r"the logits by which row \d is answered .*, compared with those of training"):
        check_answers(subject)
