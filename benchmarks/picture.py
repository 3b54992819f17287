"""Draw what a run prints, as the picture in the README.

    python -m benchmarks.picture benchmarks/quickstart.svg recipes/quickstart.toml

carries out `python -m vlora` with all arguments behind the first one, and writes its screen to that file as SVG.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from vlora.cli import screen
from vlora.cli.main import main

WIDTH = 108
"""Columns of the screen."""


class RecordedScreen(screen.Screen):
    """The screen of a command, which keeps what is printed."""

    def __init__(self, **options: Any) -> None:
        """Print to the process's output as a pipe gets it: without bars, which are drawn over and over."""
        super().__init__(**options, record=True, width=WIDTH, force_terminal=False)
        made.append(self)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Break long lines as a terminal of that width has them; what is wider is not drawn."""
        self._force_terminal = True
        try:
            super().print(*objects, **settings)
        finally:
            self._force_terminal = False


made: list[RecordedScreen] = []


def draw(file: Path, typed: list[str]) -> int:
    """Carry out a command and draw its screen.

    Args:
        file: Where the picture is written.
        typed: What follows `python -m vlora`.

    Returns:
        The command's exit status.
    """
    with mock.patch.object(screen, "Screen", RecordedScreen):
        status = main(typed)
    made[-1].save_svg(str(file), title=f"python -m vlora {' '.join(typed)}", unique_id="vlora")
    return status


if __name__ == "__main__":
    sys.exit(draw(Path(sys.argv[1]), sys.argv[2:]))
