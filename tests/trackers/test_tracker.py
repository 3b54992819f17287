"""Packages of trackers are optional."""

import json
import sys

import pytest

from tests.trackers.tracked import make_answers
from vlora.errors import RecipeError
from vlora.trackers.tracker import import_package


def test_a_package_is_imported() -> None:
    """By its module's name."""
    assert import_package("json", "json", "any") is json


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Module and package may have different names."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)

    with pytest.raises(RecipeError) as raised:
        import_package("tensorboardX", "tensorboardX", "tensorboard")

    assert str(raised.value).startswith("output.trackers: 'tensorboard' needs tensorboardX, which cannot be imported")
    assert str(raised.value).endswith("`python -m pip install tensorboardX` brings it")


def test_answers_are_a_table_whatever_stands_in_them() -> None:
    """Bars, line ends, HTML and quoted code stay in their cell, as text."""
    assert make_answers().write_table() == (
        "| row | expected | answer |\n"
        "|---|---|---|\n"
        "| ` rows.jsonl:1 ` | ` a \\| b <script> ` | `` `x` `` |\n"
        "| ` rows.jsonl:2 ` | ` größe ` |  |\n"
        "\n"
        "and 3 more\n"
    )
