"""`python -m vlora`, and `vlora`."""

import sys
from collections.abc import Callable

from .cli.small_blocks import restart_with_more


def load() -> Callable[[], int]:
    """Give what carries out the command, in a process that keeps many small blocks if it takes steps."""
    try:
        restart_with_more()
        from .cli.main import main
    except KeyboardInterrupt:
        # As `main` ends later on.
        sys.exit(130)
    return main


def start() -> int:
    """Carry out the command; what the script `vlora` calls."""
    return load()()


if __name__ == "__main__":
    sys.exit(load()())
