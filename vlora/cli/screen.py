"""The screen on which commands print: for people, or one JSON object a line for programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from .records import make_record, write_record
from .streams import complain, discard
from .wrapping import wrap

Mode = Literal["all", "quiet", "json"]
"""What is printed: everything, the last result only, or only objects for programs."""


def _give_up() -> None:
    raise BrokenPipeError


class Screen(Console):
    """A console that calls its owner when its output has no reader any more; rich's own console ends the process.

    Attributes:
        mode: What is printed.
        when_unread: Called once when the reader is gone; later output is discarded.
        is_unread: Whether the reader is gone.
    """

    when_unread: Callable[[], None] = staticmethod(_give_up)
    is_unread = False

    def __init__(self, *, mode: Mode = "all", **settings: Any) -> None:
        super().__init__(quiet=mode != "all", **settings)
        self.mode: Mode = mode

    def on_broken_pipe(self) -> None:
        """Discard further output, and call the owner."""
        self.quiet = self.is_unread = True
        discard(self.file)
        self.when_unread()

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does, but wrap long lines of text between words."""
        if settings.get("soft_wrap") and self.is_terminal and len(objects) == 1:
            (text,) = objects
            style = settings.pop("style", None) or ""
            if isinstance(text, str):
                has_markup = settings.get("markup", True) is not False
                text = Text.from_markup(text, style=style) if has_markup else Text(text, style=style)
            objects = (wrap(text, self.width - 1) if isinstance(text, Text) else text,)
        with self._written():
            super().print(*objects, **settings)

    def out(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does, without wrapping."""
        with self._written():
            super().out(*objects, **settings)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Take output that cannot be written, as on a full disk, for output that is not read any more."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(f"vlora: what is printed cannot be written ({error.strerror})")
            self.on_broken_pipe()

    def tell(self, event: object, **fields: Any) -> None:
        """Print an object for programs; do nothing in the other modes.

        Args:
            event: A record, or what the object's "event" is.
            fields: What else stands in it.
        """
        if self.mode == "json":
            with self._speaking():
                self.out(write_record(make_record(event, **fields)), highlight=False)

    @contextmanager
    def result(self) -> Iterator[None]:
        """Print within the `with` also in quiet mode: it is the command's result."""
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
