"""Arrays of files, as tests read them."""

from pathlib import Path

import mlx.core as mx


def load_arrays(file: Path) -> dict[str, mx.array]:
    """Read the arrays of a file by name."""
    found = mx.load(str(file))
    assert isinstance(found, dict)
    return found
