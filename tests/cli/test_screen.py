"""The screen that commands print on."""

import errno
import io

import pytest

from vlora.cli.screen import Mode, Screen
from vlora.system.signals import stop_on_signals


class Closed(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, _: str) -> int:
        """Fail as such a pipe does."""
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_closed_pipe_ends_a_run_as_a_signal_does() -> None:
    """Before the first step it ends at once; afterwards the run is asked to end, and prints no more."""
    with pytest.raises(BrokenPipeError):
        Screen(file=Closed()).print("a")
    with stop_on_signals(print, lambda: None, lambda _: None) as signals:
        screen = Screen(file=Closed())
        screen.when_unread = signals.go_unread
        with pytest.raises(BrokenPipeError):
            screen.print("a")
        assert not signals.is_asked()

        signals.has_stepped = True
        screen = Screen(file=Closed())
        screen.when_unread = signals.go_unread
        screen.print("a")
        screen.print("b")
        assert signals.is_asked()
        assert signals.status == 141


class Full(io.StringIO):
    """A file on a disk without room."""

    def write(self, _: str) -> int:
        """Fail as such a file does."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_ends_a_run_as_a_closed_pipe_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The steps are saved: what cannot be told is no reason to lose them. Stderr says why, if it can."""
    with stop_on_signals(print, lambda: None, lambda _: None) as signals:
        for mode in ("all", "json"):
            screen = Screen(file=Full(), mode=mode)
            screen.when_unread = signals.go_unread
            signals.has_stepped = True
            screen.print("a")
            screen.tell("Event", number=1)
            screen.print("b")

            assert screen.is_unread
            assert capsys.readouterr().err == "vlora: what is printed cannot be written (No space left on device)\n"
        assert signals.is_asked()
    with pytest.raises(BrokenPipeError):
        Screen(file=Full()).print("a")


def test_what_a_screen_prints() -> None:
    """All, the result only, or objects only; results of commands are not for programs."""
    printed = {}
    modes: tuple[Mode, ...] = ("all", "quiet", "json")
    for mode in modes:
        file = io.StringIO()
        screen = Screen(mode=mode, file=file)
        screen.print("on the way")
        screen.tell("Event", number=1)
        with screen.result():
            screen.print("the result")
        screen.print("behind it")
        printed[mode] = file.getvalue().splitlines()

    assert printed == {
        "all": ["on the way", "the result", "behind it"],
        "quiet": ["the result"],
        "json": ['{"event": "Event", "number": 1}'],
    }


def test_a_pipe_that_closes_stays_closed() -> None:
    """A result is not printed to it either, and objects end the command as lines do."""
    unread: list[bool] = []
    screen = Screen(file=Closed(), mode="json")
    screen.when_unread = lambda: unread.append(True)
    screen.tell("Event")
    screen.tell("Event")
    with screen.result():
        screen.print("a")

    assert unread == [True]


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As https://no-color.org has it."""
    printed = {}
    for wanted in ("", "1"):
        monkeypatch.setenv("NO_COLOR", wanted)
        file = io.StringIO()
        Screen(file=file, force_terminal=True, color_system="standard").print("[red]a[/]")
        printed[wanted] = file.getvalue()

    assert printed == {"": "\x1b[31ma\x1b[0m\n", "1": "a\n"}
