"""The command that uploads; what it uploads is tested with `vlora.export.hub`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import vlora
from tests.commands import complaint
from tests.training import make_trainable
from vlora.cli.main import main


def test_a_dry_run_writes_a_folder(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An adapter without a run beside it has a card, too; the folder is named, and slips are one sentence."""
    made = make_trainable(checkpoint("qwen3_vl"))
    vlora.save_adapter(tmp_path / "adapters.safetensors", made.state.params, made.config)
    words = ["push", str(tmp_path), "--repo", "me/cats", "--dry-run", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "README.md, adapter_config.json, adapters.safetensors" in printed
    assert f"not uploaded: {tmp_path / 'out'}" in printed
    assert "--out: " in complaint(words, capsys)
    assert "--repo" in complaint(["push", str(tmp_path)], capsys)
    assert main([*words[:-1], str(tmp_path / "other"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["address"]) == ("Pushed", None)
