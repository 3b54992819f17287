"""Packages of trackers are optional."""

import json
import sys

import pytest

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
