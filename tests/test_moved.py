"""Modules of 0.1 are found under their old names, with a warning."""

import importlib
import subprocess
import sys

import pytest

import vlora
from vlora import moved

OLD = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
from vlora import backend
from vlora.backend.tiny import build_tiny_qwen3_vl
from vlora.recipe import DataSection, parse_recipe
from vlora.samples import format_sample
from vlora.steps import let_go
import vlora
assert format_sample is vlora.format_sample and let_go is vlora.unbind
assert parse_recipe is vlora.parse_recipe and DataSection(path='x').path == 'x'
assert backend.find_model is vlora.models.find_model
print(build_tiny_qwen3_vl.__module__)
"""


def test_an_older_program_runs() -> None:
    """Its imports give the functions that there are today."""
    found = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "vlora.models.load.tiny"


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_every_module_has_gone_somewhere(old: str) -> None:
    """The new place is there; the warning names it."""
    importlib.import_module(f"vlora.{moved.MODULES[old]}")
    with pytest.warns(DeprecationWarning, match=rf"vlora\.{old} is vlora\.{moved.MODULES[old]} now"):
        assert moved.Finder().find_spec(f"vlora.{old}") is not None


def test_other_names_are_not_found() -> None:
    """A name that no release has had is an error as ever."""
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("vlora.nothing_of_this_name")
    with pytest.raises(AttributeError):
        _ = vlora.nothing_of_this_name
