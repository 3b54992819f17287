"""Fused folders have the trained logits in transformers. Needs the environment of `tests.golden.generate`.

VLORA_REFERENCE=.venv-reference/bin/python python -m pytest -m reference
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REFERENCE = os.environ.get("VLORA_REFERENCE")
ROOT = Path(__file__).parents[2]


@pytest.mark.reference
@pytest.mark.skipif(REFERENCE is None, reason="VLORA_REFERENCE names no Python with torch, transformers and PEFT")
@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "qwen3_vl_moe"])
def test_fused_folders_have_the_trained_logits_in_transformers(tmp_path: Path, family: str) -> None:
    """A tied table, a head of its own, and a mixture: adapters of language model and tower, and trained tables."""
    arguments = ["--work", str(tmp_path), family]
    stages = {"prepare": sys.executable, "fused_prepare": sys.executable, "fused_reference": str(REFERENCE)}
    for stage, python in stages.items():
        command = [python, "-W", "ignore", "-m", f"tests.golden.{stage}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{stage}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    compared = [line for line in done.stdout.splitlines() if line.startswith(f"{family} ")]
    assert len(compared) >= 2, done.stdout
