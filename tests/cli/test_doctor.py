"""The command that proves vlora on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checking import scaled
from vlora.cli.main import main
from vlora.doctor import ops
from vlora.ops import functional


def test_it_writes_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints a line per check and a verdict, writes the file, and ends with 0, or with 1 for a fault."""
    checks: dict[str, Any] = {"SwiGLU": ops.check_swiglu, "the loss": ops.check_loss}
    monkeypatch.setattr("vlora.doctor.checks.find_checks", lambda: checks)
    file = tmp_path / "doctor.json"

    assert main(["doctor", "--write", str(file)]) == 0

    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    assert "vlora works here" in printed
    assert "mlx-vlm: " in printed
    assert found["is_proven"] is True
    assert [check["name"] for check in found["checks"]] == list(checks)

    monkeypatch.setattr(functional, "swiglu", scaled(functional.swiglu))
    os.link(file, tmp_path / "before")

    assert main(["doctor", "--write", str(file)]) == 1
    # Written beside and renamed: whoever reads meanwhile has the old file or the new one.
    assert json.loads((tmp_path / "before").read_text())["is_proven"] is True

    printed = capsys.readouterr().out

    assert "1 of 2 checks failed" in printed
    assert "FAIL SwiGLU" in printed
    assert "ok   the loss" in printed
    assert json.loads(file.read_text())["is_proven"] is False


def test_it_overwrites_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is none of its outcomes is named before any check."""
    monkeypatch.setattr("vlora.doctor.checks.find_checks", lambda: pytest.fail("checks began"))
    file = tmp_path / "rows.json"
    file.write_text('[{"machine": 1}]')

    assert main(["doctor", "--write", str(file)]) == 2
    assert "is there, was not written by this command, and is not overwritten" in capsys.readouterr().err
    assert file.read_text() == '[{"machine": 1}]'


def test_it_takes_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A model is checked, and the recipe names one."""
    assert main(["doctor", "vlora/recipes/quickstart.toml"]) == 2
    assert "which is a recipe; give the folder or the hub id of its model" in capsys.readouterr().err


def test_a_missing_option_value_is_a_mistake() -> None:
    """In a process of its own, as users type it."""
    ended = subprocess.run(
        [sys.executable, "-m", "vlora", "doctor", "--write"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "--write" in ended.stderr
