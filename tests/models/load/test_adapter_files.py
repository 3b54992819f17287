"""An adapter's files are found in its folder, by either name."""

from pathlib import Path

import pytest

from vlora.errors import CheckpointError
from vlora.models.load.adapter_files import ARGUMENT, is_peft, named_base, read_adapter


def test_both_names_are_known_and_vloras_own_comes_first(tmp_path: Path) -> None:
    """A folder of PEFT's has another name for the arrays."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/model"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    weights, config = read_adapter(str(tmp_path))
    assert (weights.name, is_peft(config), named_base(config)) == ("adapter_model.safetensors", True, "some/model")
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    assert read_adapter(str(tmp_path))[0].name == "adapters.safetensors"


def test_pickles_are_not_read(tmp_path: Path) -> None:
    """Neither in a folder nor named themselves."""
    file = tmp_path / "adapter_model.bin"
    file.write_bytes(b"")
    for path in (tmp_path, file):
        with pytest.raises(CheckpointError, match="is pickled, and reading it would run code"):
            read_adapter(str(path))


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    """A whole model's folder is told as such, and errors begin with what has named it."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"^adapter: .* is a model's folder, and no adapter; give the folder of"):
        read_adapter(str(tmp_path), ARGUMENT)
    with pytest.raises(CheckpointError, match=r"^model\.adapter_path: found no "):
        read_adapter(str(tmp_path / "nothere"))
