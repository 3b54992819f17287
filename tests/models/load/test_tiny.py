"""The quickstart's model is real and the same everywhere."""

from pathlib import Path

import mlx_vlm

from tests.arrays import load_arrays
from vlora import models


def test_the_same_seed_builds_the_same_model(tmp_path: Path) -> None:
    """Tokenizer and weights depend on the seed alone."""
    first, second, other = (
        models.build_tiny_qwen3_vl(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    weights = [load_arrays(folder / "model.safetensors") for folder in (first, second, other)]

    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()
    assert all(bool((weights[0][name] == value).all()) for name, value in weights[1].items())
    assert any(bool((weights[0][name] != value).any()) for name, value in weights[2].items())


def test_it_is_a_qwen3_vl(tmp_path: Path) -> None:
    """mlx-vlm opens it as the architecture and the processor that it names, and it generates."""
    model, processor = mlx_vlm.load(str(models.build_tiny_qwen3_vl(tmp_path / "a")))

    assert type(model).__module__ == "mlx_vlm.models.qwen3_vl.qwen3_vl"
    assert type(processor).__name__ == "Qwen3VLProcessor"
    assert isinstance(mlx_vlm.generate(model, processor, "hi", max_tokens=3).text, str)
