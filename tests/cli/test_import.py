"""`python -m vlora import`: what is written is told, and a folder that cannot be read is one sentence."""

import json
from pathlib import Path

import pytest

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
