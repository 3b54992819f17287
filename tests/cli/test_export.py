"""`python -m vlora export`: what is written is told, and what cannot be is one sentence."""

import json
from pathlib import Path

import pytest

from tests.commands import complaint
from tests.export.adapters import write_adapter
from vlora import models
from vlora.build import BUILTIN_FOLDER, BUILTIN_MODEL
from vlora.cli.main import main
from vlora.recipe.schema import ModelSection


def test_the_folder_and_its_use_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people, and as one object for programs; a missing adapter ends with 2."""
    own = write_adapter(tmp_path, rank=2, targets=("q_proj",))
    assert main(["export", str(own), "--to", "vllm"]) == 0
    told = capsys.readouterr().out
    assert "2 layers with adapters of rank 2" in told
    assert "--max-lora-rank 8" in told
    assert f"adapter: {own / 'vllm'}" in told
    assert main(["export", str(own), "--to", "peft", "--json", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["folder"], found["program"], found["n_layers"]) == (str(tmp_path / "out"), "peft", 2)
    assert main(["export", str(tmp_path / "nothing"), "--to", "peft"]) == 2
    assert capsys.readouterr().err.startswith("vlora: ")


def test_adapters_of_the_built_in_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that training built is found, and named as PEFT's base; other weights there are told."""
    built = models.build_tiny_qwen3_vl(tmp_path / BUILTIN_FOLDER, seed=1)
    own = write_adapter(tmp_path, model=built, rank=2, targets=("q_proj",))
    config = json.loads((own / "adapter_config.json").read_text())
    config |= {"base_model": BUILTIN_MODEL, "base": {**config["base"], "path": BUILTIN_MODEL}}
    (own / "adapter_config.json").write_text(json.dumps(config))
    assert main(["export", str(own), "--to", "peft"]) == 0
    told = capsys.readouterr().out
    assert "was trained on" not in told
    assert "names it as its base, which other programs do not open" in told
    peft = json.loads((own / "peft" / "adapter_config.json").read_text())
    assert peft["base_model_name_or_path"] == str(built.resolve())
    for command in (["import", str(own / "peft")], ["fuse", str(own)]):
        assert main(command) == 0
        assert f"base: {built.resolve()};" in capsys.readouterr().out
    built.rename(tmp_path / "away")
    models.build_tiny_qwen3_vl(built, seed=2)
    assert main(["export", str(own), "--to", "vllm"]) == 0
    assert "the weights are others" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [("export", "--to", "peft"), ("fuse",), ("run", "--prompt", "Which?", "--max-tokens", "1")]
)
def test_a_built_in_model_of_another_seed_is_no_silent_base(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An adapter that moved without its recipe is laid on the default seed's model: told, or refused where strict."""
    built = models.build_tiny_qwen3_vl(tmp_path / BUILTIN_FOLDER, seed=7)
    own = write_adapter(tmp_path, model=built, rank=2, targets=("q_proj",))
    config = json.loads((own / "adapter_config.json").read_text())
    recorded = {**config["base"], "path": BUILTIN_MODEL}
    (own / "adapter_config.json").write_text(json.dumps(config | {"base_model": BUILTIN_MODEL, "base": recorded}))
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = own.rename(tmp_path / "far" / "away" / "moved")
    command, *options = words
    recipe = moved / "recipe.toml"
    recipe.write_text('[model]\npath = "base"\nstrict_base = true\n[data]\npath = "rows"\n')
    assert "model.strict_base = true refuses that" in complaint([command, str(moved), *options], capsys)
    recipe.unlink()
    assert main([command, str(moved), *options]) == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    section = ModelSection(path=str(moved / BUILTIN_FOLDER))
    now = models.abstract_backbone(models.find_model(section), section)[0].base
    assert now is not None
    assert f"{BUILTIN_MODEL!r}" in note
    assert recorded["weights"][:8] in note
    assert f"{now.path!r}" in note
    assert str(now.weights)[:8] in note
