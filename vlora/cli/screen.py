"""The screen on which commands print."""

import os
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console


def _give_up() -> None:
    raise BrokenPipeError


class Screen(Console):
    """A console whose owner says what happens when it is read no more; rich's own ends the process at once.

    Attributes:
        when_unread: Called then, once; what is printed afterwards goes nowhere.
    """

    when_unread: Callable[[], None] = staticmethod(_give_up)

    def on_broken_pipe(self) -> None:
        """Close what cannot be written to, and tell the owner."""
        self.quiet = True
        with suppress(OSError):
            # Python would write what is left when it ends, and complain again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
        self.when_unread()
