"""A run to plan: its rows and its recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import make_recipe, write_image_rows
from vlora import Recipe


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows with images of two sizes, and one without."""
    return write_image_rows(tmp_path)


@pytest.fixture
def recipe(checkpoint: Callable[[str], Path], rows: Path, tmp_path: Path) -> Recipe:
    """Make a recipe of six steps, saved every second one."""
    return make_recipe(
        checkpoint("qwen3_vl"), rows, tmp_path / "out" / "a.safetensors", train__batch_size=4, train__steps_per_eval=100
    )
