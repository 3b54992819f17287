"""A run's events, shown while they come."""

import pytest

import vlora
from tests.cli.test_view import events_of_a_run
from vlora.cli.watch import watch
from vlora.events import Warned


def test_watch(capsys: pytest.CaptureFixture[str]) -> None:
    """In a program the lines of the command line; the last event is given back."""
    last = watch(events_of_a_run())
    lines = capsys.readouterr().out.splitlines()

    assert isinstance(last, Warned)
    assert lines[0] == "loading the model ..."
    assert any(line.startswith("step 100/100  loss") for line in lines)
    assert vlora.watch is watch
    assert watch([]) is None
