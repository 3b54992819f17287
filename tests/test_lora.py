"""The older script's entry point: programs that call it go on working."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import OLDER_OPTIONS
from vlora import Recipe, lora, parse_recipe
from vlora.errors import RecipeError
from vlora.output.paths import METRICS_NAME

CheckpointFactory = Callable[[str], Path]


def test_program_of_the_older_script(recipes: list[Recipe]) -> None:
    """A program's Namespace, with all names at their older defaults, is the recipe of defaults."""
    names = {row[0].replace("-", "_"): row[1] for row in OLDER_OPTIONS}
    lora.main(argparse.Namespace(**names, dataset="rows.jsonl"))
    lora.main(argparse.Namespace(dataset="rows.jsonl"))
    lora.main(argparse.Namespace(dataset="rows.jsonl", image_resize_shape=(8, 9), lora_alpha=3))

    assert recipes[0] == recipes[1] == parse_recipe('[data]\npath = "rows.jsonl"')
    assert recipes[2].data.image_resize_shape == (8, 9)
    assert recipes[2].lora.alpha == 3.0


def test_program_with_unknown_names() -> None:
    """Names that the older script did not have are refused, all of them, with those that it had."""
    with pytest.raises(RecipeError, match=r"lora_ranks, seed: no such option; known are .*lora_rank"):
        lora.main(argparse.Namespace(dataset="rows.jsonl", lora_ranks=3, seed=None))


def test_program_with_wrong_values() -> None:
    """Wrong values of a program are reported under their recipe keys."""
    with pytest.raises(RecipeError) as caught:
        lora.main(argparse.Namespace(dataset=3, lora_rank="8", grad_checkpoint="no"))

    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        "data.path",
        "lora.rank",
        "train.grad_checkpoint",
    }


def test_older_program_end_to_end(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that called the older script trains: an adapter, its configuration and the metrics are written."""
    out = tmp_path / "out" / "my.safetensors"

    lora.main(
        argparse.Namespace(
            model_path=str(checkpoint("qwen3_vl")),
            dataset=str(rows),
            iters=2,
            batch_size=2,
            learning_rate=1e-3,
            steps_per_report=1,
            train_on_completions=True,
            output_path=str(out),
            adapter_path=None,
        )
    )

    assert out.is_file()
    assert json.loads((out.parent / "adapter_config.json").read_text())["lora_parameters"]["rank"] == 8
    metrics = [json.loads(line) for line in (out.parent / METRICS_NAME).read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 1, 2]
    assert metrics[0]["device"] == "cpu"
    assert metrics[1]["learning_rate"] == 1e-3
    printed = capsys.readouterr().out
    for words in ("4 rows; 2 steps", "adapter on", "step 2/2  loss", f"saved {out}", "mlx_vlm.generate"):
        assert words in printed
