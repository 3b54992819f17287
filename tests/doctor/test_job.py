"""The job that checks train."""

from pathlib import Path
from typing import Any

import pytest

from tests.checking import outcome_of
from vlora.doctor import job
from vlora.errors import RecipeError


def test_rows_are_drawn_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that lacks it is checked all the same."""

    def refuse(*_: Any) -> Any:
        msg = "data.path: builtin:digits needs scikit-learn"
        raise RecipeError(msg)

    monkeypatch.setattr(job, "load_digit_rows", refuse)
    outcome = outcome_of("rows of a batch", tmp_path)

    assert outcome.is_ok, outcome.found
