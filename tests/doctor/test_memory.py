"""The check of memory limits finds limits that do not hold."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.checking import outcome_of
from vlora.doctor import memory


def test_limits_that_do_not_hold_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was set, and what holds, stands in the outcome."""
    monkeypatch.setattr(memory, "memory_limits", lambda _: nullcontext())
    outcome = outcome_of("memory limits", tmp_path)

    assert not outcome.is_ok
    assert outcome.found.startswith("limits of 2 GB and a cache of 0.5 GB were set, but ")
