"""Output that cannot be written."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from vlora.cli.status import USER_ERROR
from vlora.cli.streams import complain, discard

FULL = Path("/dev/full")
"""A file on which nothing has room; Linux has it."""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("with_stderr", [False, True])
def test_a_full_disk_ends_a_command_in_one_sentence(with_stderr: bool) -> None:
    """Its status is that of what the user can mend; Python's own, 120 with a traceback, would come otherwise."""
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "vlora", "--help"],
            stdout=full,
            stderr=full if with_stderr else subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.returncode == USER_ERROR
    if not with_stderr:
        assert ended.stderr == "vlora: there is no room left to write to (No space left on device)\n"


def test_a_stream_without_a_file_is_left_alone() -> None:
    """As in tests and notebooks."""
    discard(io.StringIO())


def test_sentences_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line's end."""
    complain("vlora: a")

    assert capsys.readouterr().err == "vlora: a\n"
