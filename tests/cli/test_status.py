"""Exit statuses follow the shell's conventions."""

import signal

from vlora.cli import status


def test_signals_are_told_as_the_shell_tells_them() -> None:
    """128 and the signal's number; users' errors are told from unforeseen ones, and success is 0."""
    assert status.INTERRUPTED == 128 + signal.SIGINT
    assert status.UNREAD == 128 + signal.SIGPIPE
    assert status.DONE == 0
    assert len({status.DONE, status.USER_ERROR, status.UNFORESEEN}) == 3
    assert status.FAILED_CHECK != status.USER_ERROR
