"""Adapters mean the same in vlora and in PEFT, in both directions. Needs the environment of `tests.golden.generate`.

VLORA_REFERENCE=.venv-reference/bin/python python -m pytest -m reference
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .made_cases import MADE

REFERENCE = os.environ.get("VLORA_REFERENCE")
ROOT = Path(__file__).parents[2]


@pytest.mark.reference
@pytest.mark.skipif(REFERENCE is None, reason="VLORA_REFERENCE names no Python with torch, transformers and PEFT")
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe", "gemma4_moe", "glm4v", "kimi_k25"])
def test_adapters_mean_the_same_in_peft(tmp_path: Path, family: str) -> None:
    """A tied table, mixtures, one that transformers turns, gates that MLX joins with others, and rows out of order."""
    arguments = ["--work", str(tmp_path), family]
    first = {"made_side": sys.executable, "made_reference": str(REFERENCE)} if family in MADE else {}
    stages = {
        **(first or {"prepare": sys.executable}),
        "peft_prepare": sys.executable,
        "peft_reference": str(REFERENCE),
        "peft_table": sys.executable,
    }
    for stage, python in stages.items():
        command = [python, "-W", "ignore", "-m", f"tests.golden.{stage}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{stage}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
