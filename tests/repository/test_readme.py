"""The README's lines, run."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.training import picture  # noqa: F401 - imports vlora before mlx, as the README asks for

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [text for language, text in CODE if language == "python"]
LINES = [line for language, text in CODE if language == "sh" for line in text.splitlines()]
OWN_LOOP_LINES = 25


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the repository's recipes and package at hand."""
    for name in ("recipes", "vlora", "benchmarks"):
        if not (cwd / name).exists():
            (cwd / name).symlink_to(ROOT / name)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=500
    )


def test_own_loop(tmp_path: Path) -> None:
    """The loop in the README is short, runs as it stands, and its loss falls."""
    (code,) = PYTHON
    result = run(["-c", code], tmp_path)
    losses = [float(line.split()[1]) for line in result.stdout.splitlines()]

    assert len([line for line in code.splitlines() if line.strip()]) <= OWN_LOOP_LINES
    assert not result.returncode, result.stderr
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_install_lines() -> None:
    """The two lines at the top name extras that exist, and .ci/test runs the second one."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for line in LINES for group in re.findall(r'"\.\[([\w,]+)\]"', line) for name in group.split(",")}

    assert named <= set(extras)
    assert LINES[1] in (ROOT / ".ci" / "test").read_text()


def test_commands(tmp_path: Path) -> None:
    """`inspect` and a short quickstart, as the README writes them, exit with 0 and write what it says."""
    inspect, short = (shlex.split(line)[1:] for line in LINES if "inspect" in line or "runs/short" in line)
    shown = run(inspect, tmp_path)
    trained = run([*short, "--set", "train.epochs=1", "--set", "eval.answer_rows=10"], tmp_path)

    assert not shown.returncode, shown.stderr
    assert "[1<|im_end|>]" in shown.stdout
    assert not trained.returncode, trained.stderr
    assert {"config.json", "model.safetensors", "metrics.jsonl", "recipe.toml"} <= {
        file.name for file in (tmp_path / "runs" / "short").iterdir()
    }


@pytest.mark.slow
def test_quickstarts_reach_their_accuracies(tmp_path: Path) -> None:
    """Both quickstart recipes reach their accuracies from about chance, and the printed commands work."""
    for line, least in ((LINES[0].partition("&& ")[2], 0.95), (LINES[2], 0.90)):
        result = run(shlex.split(line)[1:], tmp_path)
        assert not result.returncode, result.stderr
        command = shlex.split(result.stdout.strip().splitlines()[-1])
        answer = run(command[1:], tmp_path)
        weights = Path(command[command.index("--adapter-path") + 1]).parent if "--adapter-path" in command else None
        folder = tmp_path / (weights or command[command.index("--model") + 1])
        last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
        before, after = (float(value) for value in re.findall(r'"accuracy_\w+": ([\d.]+)', last))

        assert before <= 0.1
        assert after >= least
        assert answer.stdout.strip().splitlines()[-1] in ("0", "zero")
    (benchmark,) = (line for line in LINES if "benchmarks.step" in line)
    result = run([*shlex.split(benchmark)[1:], "--steps", "2", "--warmup", "1"], tmp_path)

    assert not result.returncode, result.stderr
