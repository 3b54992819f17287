"""The benchmarks run, beside mlx-vlm's own step, and say what they measured."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from benchmarks.cases import NVIDIA
from benchmarks.flops import count_operations
from benchmarks.report import compare_sides, judge_goals, show_table, show_verdicts
from benchmarks.shapes import SHAPES, Work
from benchmarks.workers import MissingError, Worker, WorkerError
from tests.checkpoints import build_checkpoint

ROOT = Path(__file__).parents[2]
N_ROWS = 6
POSITIVE = (
    "tokens_per_s",
    "supervised_tokens_per_s",
    "peak_memory_gb",
    "median_ms",
    "min_ms",
    "max_ms",
    "n_trainable",
    "first_loss",
    "loss",
)
RECIPE = """
[model]
path = "{folder}/model"

[data]
path = "{folder}/rows.jsonl"
train_on_completions = true

[lora]
rank = 4

[train]
batch_size = 2

[output]
path = "{folder}/adapter"
"""


def write_rows(folder: Path) -> None:
    rows = []
    for number in range(N_ROWS):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        answer = "a red square " * (number + 1)
        rows.append({"image": f"{number}.png", "question": "What is it?", "answer": answer})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")


@pytest.mark.slow
def test_step_beside_the_peer(tmp_path: Path) -> None:
    """Both take steps over the same tokens; a recipe that cannot be opened costs only itself."""
    build_checkpoint("qwen3_vl", tmp_path / "model")
    write_rows(tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    absent = tmp_path / "absent.toml"
    options = ["--peer", "--steps", "2", "--warmup", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", str(recipe), str(absent), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert {"device", "chip", "os", "python", "mlx", "mlx_vlm", "vlora", "blas"} <= set(summary["machine"])
    assert (summary["steps"], summary["warmup"]) == (2, 1)
    measured, missing = summary["results"]
    ours, peer = measured["vlora"], measured["peer"]
    for side in (ours, peer):
        assert all(side[key] > 0 for key in POSITIVE)
        assert side["min_ms"] <= side["median_ms"] <= side["max_ms"]
        assert side["trace_s"] >= 0
    assert measured["ratio"] > 0
    assert measured["model_type"] == "qwen3_vl"
    assert ours["n_traces"] > 0
    assert ours["n_late_traces"] == 0
    assert ours["n_trainable"] == peer["n_trainable"]
    assert abs(ours["first_loss"] / peer["first_loss"] - 1) < 1e-3
    assert not any("targets" in note for note in peer["notes"])
    assert "absent.toml" in missing["error"]
    assert not (tmp_path / "adapter").exists()


def table(*arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the table's command: the lines of its cases, and its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.table", "--tiniest", "--steps", "1", "--rounds", "2", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line for line in lines if "case" in line], lines[-1]


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        pytest.param("cpu", "vlora-cached/2x65", "mlx-vlm/2x65", marks=pytest.mark.slow),
        pytest.param("nvidia", "vlora-4bit-cached/16x513", "mlx-vlm-4bit/16x513", marks=pytest.mark.slow),
    ],
)
def test_table(kind: str, ours: str, theirs: str) -> None:
    """Sides in turns and one after the other: the same loss and adapters, and the last line holds all of it."""
    cases, last = table("--kind", kind, "--cases", f"{ours},{theirs}")

    assert {case["case"] for case in cases} == {ours, theirs} == set(last["results"])
    for result in last["results"].values():
        assert all(result[key] > 0 for key in ("step_ms", "tokens_per_s", "peak_gb", "mfu", "weights_gb"))
        assert result["step_ms_min"] <= result["step_ms"] <= result["step_ms_max"]
    (apart,) = (result["losses_apart"] for result in last["results"].values() if "losses_apart" in result)
    assert apart < 1e-5
    assert last["same_losses"]
    assert last["same_trainable"]
    assert all(goal["case"] == ours and goal["value"] > 0 for goal in last["goals"])
    assert any(goal.get("over") == theirs for goal in last["goals"])
    assert {"system", "cpus", "versions", "device", "matmul"} <= set(last["machine"])


def test_operations_by_hand() -> None:
    """Two rows of 8 tokens, of which 7 are read, in a model of one layer."""
    shape = attrs.evolve(SHAPES["tiniest"], layers=1, tower_layers=1)
    work = Work(rows=2, image=32, prompt=4, answer=3)
    found = count_operations(shape, work, rank=4, with_tower=True)
    weights = 64 * 64 + 64 * 32 + 64 * 32 + 64 * 64 + 3 * 64 * 128

    assert (work.n_image_tokens, work.n_tokens, work.n_read) == (1, 8, 7)
    # Forward and backward to the inputs, but for those of queries, keys and values: nothing trained lies behind.
    assert found.layers == 2 * 7 * (2 * weights + 2 * (weights - 64 * (64 + 32 + 32)))
    # Seven queries see 1 to 7 keys: 28 pairs; scores and sums, forward and twice backward.
    assert found.attention == 2 * 28 * 64 * 2 * 2 * 3
    factors = sum(4 * (inputs + outputs) for inputs, outputs in shape.linears().values())
    assert found.adapters == 2 * 7 * (2 * 3 * factors - 2 * 4 * 3 * 64)
    assert found.head == 2 * 3 * 2 * 2 * 64 * 320
    # Four patches and one merged token per image; the tower's own merger and one of the deepstack's.
    tower = 1536 * 32 + 4 * 32 * 32 + 2 * 32 * 64 + 2 * 32 * 4
    assert found.tower == 2 * 2 * (4 * tower + 1 * 2 * (128 * 128 + 128 * 64))
    assert count_operations(shape, work, rank=4, with_tower=False).tower == 0
    assert found.total == found.layers + found.attention + found.adapters + found.head + found.tower


def test_a_dying_process_costs_only_itself() -> None:
    """Whoever asks learns how it ended; a package that is missing is told from a failure."""
    with Worker("os", "abort", 60) as worker, pytest.raises(WorkerError, match="the process ended with -6"):
        worker.make()
    with Worker("no_such_package", "open_side", 60) as worker, pytest.raises(MissingError, match="no_such_package"):
        worker.make()
    with Worker("time", "sleep", 1.0) as worker, pytest.raises(WorkerError, match="no answer within 1 s"):
        worker.make(30)
    with Worker("pathlib", "Path", 60) as worker:
        worker.make("a")
        with pytest.raises(WorkerError, match="FileNotFoundError"):
            worker.call("read_text")
        assert worker.call("is_absolute") is False


def test_a_missing_side_is_passed_over() -> None:
    """Goals are judged where both numbers are there, and a row says what is not."""
    results: dict[str, dict[str, Any]] = {
        "vlora-cached/16x513": {"tokens_per_s": 10.0, "mfu": 0.4, "first_loss": 2.0, "n_trainable": 3},
        "mlx-vlm/16x513": {"tokens_per_s": 2.0, "first_loss": 2.1, "n_trainable": 3},
        "torch/16x513": {"skipped": "torch is not installed"},
    }
    verdicts = judge_goals(NVIDIA.goals, results, in_turns=False)
    comparisons = compare_sides(NVIDIA.cases, results, NVIDIA.same_loss)
    lines = show_verdicts(verdicts, comparisons)

    assert [(verdict["number"], verdict["met"]) for verdict in verdicts] == [("tokens_per_s", True), ("mfu", False)]
    assert [found["same_loss"] for found in comparisons] == [False]
    assert "MISSED" in lines[1]
    assert "first loss" in lines[2]
    for number, rounds in enumerate(([30.0, 1.0, 2.0], [90.0, 2.0, 4.0])):
        results[("vlora-cached/16x513", "mlx-vlm/16x513")[number]]["rounds_ms"] = rounds
    (paired, _) = judge_goals(NVIDIA.goals, results, in_turns=True)
    assert (paired["least"], paired["value"], paired["most"], paired["met"]) == (2.0, 2.0, 3.0, False)
    assert any("torch is not installed" in line for line in show_table(NVIDIA.cases, results))


def write_wheel(folder: Path, name: str, source: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        information = f"{name}-1.0.dist-info"
        wheel.writestr(f"{name}.py", source)
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def test_offline_parts(tmp_path: Path) -> None:
    """Wheels travel in parts of a bounded size, in any number of transfers, and are whole on the other side."""
    wheels, parts, home = tmp_path / "wheels", tmp_path / "parts", tmp_path / "home"
    wheels.mkdir()
    write_wheel(wheels, "carried", f"LETTERS = {'abc' * 2000!r}\n")
    write_wheel(wheels, "small", "NUMBER = 7\n")
    offline = ROOT / "benchmarks" / "offline"
    environment = {**os.environ, "PART_BYTES": "3000", "VLORA_OFFLINE": str(home)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert not done.returncode, done.stderr
        return done.stdout

    run(offline / "pack.sh", "--from", wheels, parts)
    packed = sorted(parts.iterdir())

    assert len(packed) > 1
    for part in packed:
        assert sum(file.stat().st_size for file in part.iterdir() if file.name != "manifest") <= 3000
    assert "still to come" in run(offline / "install.sh", packed[-1])
    assert "installed" in run(offline / "install.sh", *packed[:-1])
    script = f". {home}/env.sh && python -c 'import carried, small; print(len(carried.LETTERS), small.NUMBER)'"
    assert run("bash", "-c", script).split() == ["6000", "7"]
