"""The tests that tests/kinds.md names are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = sorted(
    set(re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", (TESTS / "kinds.md").read_text(encoding="utf-8")))
)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=["::".join(filter(None, names)) for names in NAMED])
def test_named_tests_are_there(file: str, test: str) -> None:
    """A test that is renamed is renamed in the table too."""
    text = (TESTS / file).read_text(encoding="utf-8")

    assert not test or f"def {test}(" in text
