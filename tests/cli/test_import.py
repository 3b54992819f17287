"""`python -m vlora import`: what is written is told, and a folder that cannot be read is one sentence."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import complaint
from tests.export.adapters import write_adapter
from vlora.cli.main import main
from vlora.export.programs import export


def test_the_adapter_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people, and as one object for programs; a missing folder ends with 2."""
    folder = export(str(write_adapter(tmp_path, rank=2, targets=("q_proj",))), "peft").folder
    assert main(["import", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "2 layers, lora of rank 2" in told
    assert f"adapter: {folder / 'mlx'}" in told
    assert main(["import", str(folder), "--json", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["folder"], found["n_layers"], found["method"]) == (str(tmp_path / "out"), 2, "lora")
    assert main(["import", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("vlora: ")


def test_another_base_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line names both where the shapes fit; the base that the adapter names takes none."""
    folder = export(str(write_adapter(tmp_path, rank=2, targets=("q_proj",))), "peft").folder
    assert main(["import", str(folder), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "same")]) == 0
    assert "note:" not in capsys.readouterr().out
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    assert main(["import", str(folder), "--model", str(tmp_path / "other")]) == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert f"was trained on {str(tmp_path / 'model')!r}, and is loaded on {str(tmp_path / 'other')!r}" in note
    words = ["import", str(folder), "--model", "nowhere", "--out", str(tmp_path / "third")]
    assert complaint(words, capsys).startswith("vlora: --model: there is no folder 'nowhere'")
    words[words.index("nowhere")] = "builtin:tiny-qwen3-vl"
    assert "training builds 'builtin:tiny-qwen3-vl', in a folder of its own beside its output" in complaint(
        words, capsys
    )
