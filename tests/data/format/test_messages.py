"""Messages: their roles, thoughts and marks of what is learned."""

from typing import Any

import pytest

from tests.data.format.conversations import ANSWER, QUESTION
from vlora import Turn, format_sample


@pytest.mark.parametrize("role", ["user", "human", "<|User|>", "User", " HUMAN "])
def test_user_roles(role: str) -> None:
    """The user's names in other formats are understood."""
    sample = format_sample({"messages": [{"role": role, "content": "What?"}, ANSWER]})

    assert [turn.role for turn in sample.turns] == ["user", "assistant"]


@pytest.mark.parametrize("role", ["assistant", "gpt", "model", "bot", "chatgpt", "<|Assistant|>"])
def test_assistant_roles(role: str) -> None:
    """The assistant's names in other formats are understood."""
    sample = format_sample({"messages": [QUESTION, {"role": role, "content": "Yes."}]})

    assert sample.turns[1] == Turn("assistant", ("Yes.",))


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thought(key: str) -> None:
    """What the assistant thinks stands apart from what it answers."""
    sample = format_sample({"messages": [QUESTION, {**ANSWER, key: "Whiskers, so."}, QUESTION, {**ANSWER, key: ""}]})

    assert sample.turns[1] == Turn("assistant", ("A cat.",), thought="Whiskers, so.")
    assert sample.turns[3] == Turn("assistant", ("A cat.",))


@pytest.mark.parametrize("key", ["loss", "loss_mask", "loss_scale", "weight", "train", "training", "trainable"])
@pytest.mark.parametrize(("mark", "is_learned"), [(0, False), (False, False), (0.0, False), (1, True), (True, True)])
def test_marks(key: str, mark: Any, is_learned: bool) -> None:
    """A message may say whether its turn is learned; one that says nothing is."""
    sample = format_sample({"messages": [QUESTION, {**ANSWER, key: mark}, QUESTION, {**ANSWER, key: None}]})

    assert [turn.learned for turn in sample.turns] == [True, is_learned, True, True]
