"""Long runs are watched, and what grows is called so."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from PIL import Image

from benchmarks.long import KINDS, Sample, draw_model, look, sum_up, write_rows
from vlora import models
from vlora.data.opening import read_rows
from vlora.recipe.schema import DataSection, ModelSection


@pytest.mark.parametrize("growing", [None, "host_gb", "active_gb", "threads", "handles", "traces"])
def test_a_long_run_is_judged(growing: str | None) -> None:
    """What is flat after the first tenth passes, whatever it was before; what grows by a tenth of it does not."""

    def at(name: str, step: int) -> float:
        base = {"threads": 20, "handles": 40, "traces": 200}.get(name, 2.0)
        return base * (0.3 if step <= 200 else 1 + 0.8 * (name == growing) * step / 2000)

    reports = [
        {
            "step": step,
            "unix_time": 100.0 + step,
            "n_traces": at("traces", step),
            "active_memory_gb": at("active_gb", step),
            "cache_memory_gb": 1.0,
            "peak_memory_gb": 3.0,
            "seconds": float(step),
        }
        for step in range(20, 2001, 20)
    ]
    samples = [
        Sample(100.0 + step, at("host_gb", step), int(at("threads", step)), int(at("handles", step)))
        for step in range(10, 2000, 10)
    ]
    found = sum_up(KINDS["cpu"], 2000, samples, reports)

    for name in ("host_gb", "active_gb", "threads", "handles"):
        assert found[name]["flat"] == (name != growing)
    assert found["few_traces"] == (growing != "traces")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux has /proc")
def test_a_process_is_looked_at() -> None:
    """Memory, threads and handles of a process that runs; nothing of one that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = look(process.pid)
        process.communicate(b"\n")

    assert found is not None
    assert 0 < found.host_gb < 1
    assert found.threads >= 1
    assert look(process.pid) is None


def test_rows_of_a_long_run(tmp_path: Path) -> None:
    """No two images have the same size, no seed draws another's rows, and the answers have many lengths."""
    rows = [json.loads(line) for line in write_rows(KINDS["cpu"], tmp_path, 0).read_text().splitlines()]
    sizes = set()
    for row in rows:
        with Image.open(tmp_path / row["image"]) as image:
            sizes.add(image.size)

    assert len(rows) == len(sizes) == 200
    assert len({len(row["answer"].split()) for row in rows}) == KINDS["cpu"].most_words
    (tmp_path / "again").mkdir()
    again = write_rows(KINDS["cpu"], tmp_path / "again", 0)
    assert again.read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    assert write_rows(KINDS["cpu"], tmp_path / "again", 1).read_bytes() != (tmp_path / "rows.jsonl").read_bytes()


def test_a_larger_model_for_long_runs(tmp_path: Path) -> None:
    """A drawn model with the quickstart's tokenizer and processor is one that rows are encoded for."""
    kind = attrs.evolve(KINDS["nvidia"], shape="tiniest")
    model = draw_model(kind, tmp_path)
    config = json.loads((model / "config.json").read_text())

    assert config["image_token_id"] == json.loads((tmp_path / "tiny" / "config.json").read_text())["image_token_id"]
    section = ModelSection(path=str(model))
    files = models.find_model(section)
    data = DataSection(path=str(write_rows(kind, tmp_path, 0)))
    rows, _ = read_rows(data)
    example = models.make_encoder(models.load_processor(files, section), files.config, files.family, data)(rows[-1])
    assert example.placeholders.sum() == np.prod(example.inputs["image_grid_thw"]) // 4
