"""`python -m vlora export`: what is written is told, and what cannot be is one sentence."""

import json
from pathlib import Path

import pytest

from tests.export.adapters import write_adapter
from vlora.cli.main import main


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
