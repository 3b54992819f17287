"""An adapter is written for a program, into a folder of that name beside it."""

from pathlib import Path

import pytest

from tests.export.adapters import write_adapter
from vlora.errors import ModelError, RecipeError
from vlora.export.programs import export


def test_each_program_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """With the command that uses it; nothing is written of what a program does not take."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",))
    for program in ("peft", "vllm", "gguf"):
        exported = export(str(own), program)
        assert exported.folder == own / program
        assert {file.name for file in exported.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert (exported.n_layers, exported.rank, exported.n_whole) == (2, 2, 0)
        assert str(exported.folder) in exported.usage[0]
    assert not exported.notes
    with pytest.raises(ModelError, match="expected one of peft, vllm, gguf"):
        export(str(own), "onnx")
    tower = write_adapter(tmp_path / "tower", model=tmp_path / "model", rank=2, targets=("vision",))
    with pytest.raises(ModelError, match=r"--to gguf: llama\.cpp takes no adapters of towers"):
        export(str(tower), "gguf")
    assert not (tower / "gguf").exists()


def test_an_adapter_is_not_written_over(tmp_path: Path) -> None:
    """Neither the one that is exported nor another: a run's own configuration would be lost."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",))
    before = {file.name: file.read_bytes() for file in own.iterdir() if file.is_file()}
    for program in ("peft", "vllm", "gguf"):
        with pytest.raises(RecipeError, match=r"^--out: .* is there already; give another folder, or remove it$"):
            export(str(own), program, own)
    assert {file.name: file.read_bytes() for file in own.iterdir() if file.is_file()} == before
