"""Questions as mlx-vlm's generation is asked them, and its failures as one sentence."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models.encode.conversations import ONE
from vlora.errors import AnswerError
from vlora.models import Encoder
from vlora.models.foreign import LONGEST_REASON
from vlora.models.generation import upstream

Encoding = Callable[..., Encoder]
MODULE: Any = SimpleNamespace(config=SimpleNamespace())


def test_a_question_that_can_be_asked_is_no_error(encoder: Encoding) -> None:
    """mlx-vlm prepares it."""
    upstream.check_question(MODULE, encoder("qwen2_vl"), ONE)


def test_failures_are_one_sentence(encoder: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever mlx-vlm raises is named with its type, on one line, and shortened."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("no such\n  key " + "x" * 999)

    monkeypatch.setattr(upstream, "prepare_inputs", fail)
    with pytest.raises(AnswerError, match=r"^cannot be asked through mlx-vlm: KeyError: 'no such") as caught:
        upstream.check_question(MODULE, encoder("qwen2_vl"), ONE)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LONGEST_REASON + 60
