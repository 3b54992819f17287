"""The checks of whole runs find what is wrong."""

from pathlib import Path

import mlx.core as mx
import pytest

from tests.checking import outcome_of
from vlora.doctor import runs


def test_another_device_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that changes the default device under the program's feet is told of."""
    devices = iter([mx.Device(mx.cpu), mx.Device(mx.gpu)] * 9)
    monkeypatch.setattr(runs, "fit", lambda _: iter([None, None]))
    monkeypatch.setattr(mx, "default_device", lambda: next(devices))

    assert "the run began on" in outcome_of("worker threads", tmp_path).found


def test_a_run_that_fails_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last lines of a run that ends with an error stand in the outcome."""
    monkeypatch.setattr(runs, "TRAINED", {"train.val_batches": 1, "data.valid_path": "nowhere.jsonl"})
    outcome = outcome_of("a run in a process of its own", tmp_path)

    assert not outcome.is_ok
    assert "ended with status" in outcome.found
    assert "nowhere.jsonl" in outcome.found
