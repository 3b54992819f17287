"""The command that writes an adapter and its base as one model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import vlora
from tests.commands import complaint
from tests.training import make_trainable
from vlora.cli.main import main


def test_what_is_printed(checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The base, what quantizing has changed, layout and folder; an object with --json; a sentence on failure."""
    made = make_trainable(checkpoint("qwen3_vl"), model__quantize_bits=4, model__quantize_group_size=32)
    vlora.save_adapter(tmp_path / "adapters.safetensors", made.state.params, made.config)
    assert main(["fuse", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "14 layers with adapters" in printed
    assert "quantized again: 14 layers, which changes their weights by" in printed
    assert "transformers does not open, because its layers are quantized as they were for training" in printed
    assert printed.splitlines()[-1].startswith(f"model: {tmp_path / 'fused'} (")
    assert main(["fuse", str(tmp_path), "--quantize", "none", "--out", str(tmp_path / "dense"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["layout"], found["n_layers"]) == ("Fused", "published", 14)
    assert found["is_converted"]
    assert found["folder"] == str(tmp_path / "dense")
    assert main(["fuse", str(tmp_path), "--quantize", "none", "--out", str(tmp_path / "again")]) == 0
    assert "layout: the base's own, which is that of mlx-vlm's conversion" in capsys.readouterr().out
    assert "--out: " in complaint(["fuse", str(tmp_path), "--out", str(tmp_path)], capsys)
    assert "adapter: found no" in complaint(["fuse", str(tmp_path / "none")], capsys)
