"""`python -m vlora`."""

import sys

try:
    from .cli import run
except KeyboardInterrupt:
    # As `vlora.cli.main` ends later on.
    sys.exit(130)

run()
