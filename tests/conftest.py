"""Shared fixtures."""

import vlora  # noqa: F401 - first: it binds a fast BLAS before MLX multiplies anything

# isort: split
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import build_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build a family's tiny checkpoint once per session."""
    built: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in built:
            built[family] = build_checkpoint(family, tmp_path_factory.mktemp("checkpoints") / family)
        return built[family]

    return build
