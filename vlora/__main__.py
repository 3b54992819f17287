"""`python -m vlora`."""

import sys

try:
    from .cli.main import main
except KeyboardInterrupt:
    # As `vlora.cli.main.main` ends later on.
    sys.exit(130)

sys.exit(main())
