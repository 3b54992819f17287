"""What takes a run's events fails at most once; tests/cli/test_consumers.py has more of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vlora.errors import RecipeError
from vlora.events import Warned
from vlora.trackers.guard import Consumer, guard


def test_a_failure_is_told_once_and_in_one_line() -> None:
    """What came after it is not handed on, whether events or calls."""
    told: list[str] = []
    taken: list[object] = []

    @contextmanager
    def opened() -> Iterator[Consumer]:
        def take(event: object) -> None:
            taken.append(event)
            msg = "no\nroom"
            raise OSError(msg)

        yield take

    with guard("the log", opened(), told.append) as take:
        take(Warned(message="a"))
        take(Warned(message="b"))
        take.attempt(lambda: taken.append("c"))

    assert told == ["the log of this run is not written any more (OSError: no room); training goes on"]
    assert taken == [Warned(message="a")]


def test_a_failure_is_told_without_secrets() -> None:
    """Trackers name their server with the password that its address has."""
    told: list[str] = []

    @contextmanager
    def opened() -> Iterator[Consumer]:
        def take(event: object) -> None:
            del event
            msg = "no answer from https://user:secret@example.org/api?key=secret"
            raise ConnectionError(msg)

        yield take

    with guard("the log", opened(), told.append) as take:
        take(Warned(message="a"))

    [line] = told
    assert "no answer from https://***@example.org/api?***" in line


def test_what_is_wrong_before_training_is_raised() -> None:
    """A missing package ends the command."""

    @contextmanager
    def opened() -> Iterator[Consumer]:
        msg = "no package"
        raise RecipeError(msg)
        yield lambda _: None

    with pytest.raises(RecipeError, match="no package"), guard("the log", opened(), print):
        pass


def test_the_end_knows_what_ended_the_run() -> None:
    """A consumer sees the run's error, and cannot hide it."""
    seen: list[BaseException] = []

    @contextmanager
    def opened() -> Iterator[Consumer]:
        try:
            yield lambda _: None
        except KeyboardInterrupt as error:
            seen.append(error)

    def run() -> None:
        with guard("the log", opened(), print):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert len(seen) == 1
