"""The screen on which commands print, and what becomes of it when it is read no more."""

import os
from collections.abc import Iterator
from typing import IO

import pytest

from vlora.cli.screen import Screen


@pytest.fixture
def closed_pipe() -> Iterator[IO[str]]:
    """Give a pipe whose other end has been closed."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        yield file


def test_the_owner_is_told_once(closed_pipe: IO[str]) -> None:
    """What is printed afterwards goes nowhere, and is no error."""
    told: list[str] = []
    screen = Screen(file=closed_pipe)
    screen.when_unread = lambda: told.append("unread")

    for _ in range(3):
        screen.print("a line")
    closed_pipe.write("what another part writes")
    closed_pipe.flush()

    assert told == ["unread"]
    assert screen.quiet


def test_without_an_owner_the_pipe_is_broken(closed_pipe: IO[str]) -> None:
    """As Python says it, and not by ending the process as rich does."""
    with pytest.raises(BrokenPipeError):
        Screen(file=closed_pipe).print("a line")


def test_what_is_no_file_may_break_too() -> None:
    """A stream without a file descriptor."""

    class Broken:
        encoding = "utf-8"

        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            """Nothing is left."""

        def fileno(self) -> int:
            raise OSError

    told: list[str] = []
    screen = Screen(file=Broken())  # type: ignore[arg-type]
    screen.when_unread = lambda: told.append("unread")
    screen.print("a line")

    assert told == ["unread"]
