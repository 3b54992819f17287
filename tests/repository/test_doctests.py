"""Examples in docstrings are right."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "vlora").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    """Every line after `>>>` runs, and prints what stands under it."""
    result = doctest.testmod(importlib.import_module(name))

    assert result.attempted
    assert not result.failed


def test_there_are_examples() -> None:
    """The list above is found by a text; it is not empty."""
    assert "vlora.adapters.attached" in MODULES
