"""`python -m vlora`, and `vlora`."""

import sys

from .system.small_blocks import restart_with_more


def start() -> int:
    """Carry out what was typed, as `vlora.cli.main.main` does."""
    try:
        restart_with_more()
        from .cli.main import main
    except KeyboardInterrupt:
        # As `main` ends later on.
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(start())
