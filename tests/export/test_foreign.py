"""Adapters of other programs are written as vlora's own, which name their base."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.export.adapters import write_adapter
from vlora.errors import CheckpointError, RecipeError
from vlora.export.foreign import import_adapter, refuse_foreign
from vlora.export.programs import export


def test_what_was_exported_is_imported_to_the_bit(tmp_path: Path) -> None:
    """Arrays, and a configuration by which both mlx_vlm and vlora load it."""
    own = write_adapter(tmp_path, rank=2, method="dora", targets=("q_proj",), train_embeddings=True)
    folder = export(str(own), "peft").folder
    imported = import_adapter(str(folder))
    assert (imported.folder, imported.method, imported.rank) == (folder / "mlx", "dora", 2)
    expected, found = (load_arrays(path / "adapters.safetensors") for path in (own, imported.folder))
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.array(found[name]), np.array(value))
    config, before = (json.loads((path / "adapter_config.json").read_text()) for path in (imported.folder, own))
    assert config["base_model"] == before["base_model"]
    assert config["base"] == before["base"]
    assert config["trained_tables"] == before["trained_tables"]


def test_a_base_has_to_be_named(tmp_path: Path) -> None:
    """By the adapter or by the user; and the folder is not one of other things."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",))
    folder = export(str(own), "peft").folder
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="name that with --model"):
        import_adapter(str(folder))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("x")
    with pytest.raises(RecipeError, match="there already"):
        import_adapter(str(folder), str(tmp_path / "model"), tmp_path / "out")


def test_what_says_nothing_of_itself_is_imported_before_it_is_pushed(tmp_path: Path) -> None:
    """mlx-lm's and mlx-vlm's adapters name no base, and some no layers; the sentence names the way."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",))
    refuse_foreign(str(own), own, "me/cats")
    file = own / "adapter_config.json"
    config = json.loads(file.read_text())
    for change in ({"base": None, "base_model": None}, {"lora_parameters": {"rank": 2, "scale": 1.0}}):
        file.write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=rf"`python -m vlora import {own} --model \S+` first, and push that"):
            refuse_foreign(str(own), own, "me/cats")
