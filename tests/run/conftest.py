"""The rows that whole runs learn."""

from pathlib import Path

import pytest

from tests.runs import write_image_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows with images of two sizes, and one without."""
    return write_image_rows(tmp_path)
