"""The benchmark of the step runs, beside mlx-vlm's own, and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.checkpoints import build_checkpoint

ROOT = Path(__file__).parents[1]
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
        timeout=120,
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
