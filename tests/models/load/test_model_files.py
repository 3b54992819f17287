"""A model's files: which are found, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.load.test_config_translation import copy_checkpoint, spell_anew
from vlora import (
    models,
)
from vlora.recipe.schema import ModelSection


def test_families_that_know_the_newer_words_are_not_said_to_misread_them(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """LFM2-VL's classes read `rope_parameters` themselves."""
    config = json.loads((checkpoint("lfm2_vl") / "config.json").read_text())
    folder = copy_checkpoint(checkpoint("lfm2_vl"), tmp_path / "newer", spell_anew(config))
    assert not models.find_model(ModelSection(path=str(folder))).config_differs_upstream


def test_refused_families_say_why(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A family that would be trained wrongly is refused with its reason before anything is loaded."""
    from vlora.errors import ModelError
    from vlora.recipe.schema import ModelSection

    (tmp_path / "config.json").write_text('{"model_type": "muse_spark"}')
    with pytest.raises(ModelError, match="muse_spark are not trained: its layers are Metal kernels"):
        models.find_model(ModelSection(path=str(tmp_path)))
    assert checkpoint("qwen3_vl").is_dir()


def test_foreign_code_is_refused(tmp_path: Path) -> None:
    """A checkpoint that brings its own Python file is not loaded, unless the recipe trusts it."""
    from vlora.errors import ModelError
    from vlora.recipe.schema import ModelSection

    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl", "model_file": "own.py"}')
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        models.find_model(ModelSection(path=str(tmp_path)))
