"""The screen on which commands print: for people, or one JSON object a line for programs."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from .records import make_record, write_record
from .wrapping import wrap

if TYPE_CHECKING:
    from rich.progress import Progress

Mode = Literal["all", "quiet", "json"]
"""What is printed: all that a command has to say; its last result only; or objects for programs and nothing else."""


def _give_up() -> None:
    raise BrokenPipeError


class Screen(Console):
    """A console whose owner says what happens when it is read no more; rich's own ends the process at once.

    Attributes:
        mode: What is printed.
        when_unread: Called then, once; what is printed afterwards goes nowhere.
        is_unread: Whether that has happened.
    """

    when_unread: Callable[[], None] = staticmethod(_give_up)
    is_unread = False

    def __init__(self, *, mode: Mode = "all", **settings: Any) -> None:
        super().__init__(quiet=mode != "all", **settings)
        self.mode: Mode = mode

    def on_broken_pipe(self) -> None:
        """Close what cannot be written to, and tell the owner."""
        self.quiet = self.is_unread = True
        with suppress(OSError):
            # Python would write what is left when it ends, and complain again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
        self.when_unread()

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does, but break lines of text that the terminal would break within words between them."""
        if settings.get("soft_wrap") and self.is_terminal and len(objects) == 1:
            (text,) = objects
            style = settings.pop("style", None) or ""
            if isinstance(text, str):
                has_markup = settings.get("markup", True) is not False
                text = Text.from_markup(text, style=style) if has_markup else Text(text, style=style)
            objects = (wrap(text, self.width - 1) if isinstance(text, Text) else text,)
        super().print(*objects, **settings)

    def tell(self, event: object, **fields: Any) -> None:
        """Print an object for programs; nothing where people read.

        Args:
            event: A record, or what the object's "event" is.
            fields: What else stands in it.
        """
        if self.mode == "json":
            with self._speaking():
                self.out(write_record(make_record(event, **fields)), highlight=False)

    @contextmanager
    def result(self) -> Iterator[None]:
        """Print what people who want nothing but a command's result want to see."""
        if self.mode == "quiet":
            with self._speaking():
                yield
        else:
            yield

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        before, self.quiet = self.quiet, self.is_unread
        try:
            yield
        finally:
            self.quiet = before or self.is_unread

    def counting(self) -> "AbstractContextManager[Progress | None]":
        """Give a bar of rows, or None where people do not read all on a terminal."""
        if not self.is_terminal or self.mode != "all":
            return nullcontext()
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
        return Progress(*columns, TimeRemainingColumn(), console=self, transient=True)
