"""The checks of the train step find what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from tests.checking import outcome_of
from vlora.doctor import train_step
from vlora.doctor.job import encode_batch
from vlora.train.step import make_train_step


def test_a_compiled_step_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiled steps with another learning rate end with another loss."""

    def make(*args: Any, compiled: bool) -> Any:
        step = make_train_step(*args, compiled=False)
        return (lambda state, batch, rate: step(state, batch, 2 * rate)) if compiled else step

    monkeypatch.setattr(train_step, "make_train_step", make)
    outcome = outcome_of("compiled and eager steps", tmp_path)

    assert not outcome.is_ok
    assert "after two steps: off by" in outcome.found


def test_rows_that_change_one_another_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch whose rows are not those that are summed one by one has another loss."""
    monkeypatch.setattr(train_step, "encode_batch", lambda recipe, _: encode_batch(recipe, [0]))

    assert "the summed loss of a batch: off by" in outcome_of("rows of a batch", tmp_path).found
