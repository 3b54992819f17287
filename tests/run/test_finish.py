"""The end of a run: how the trained model is asked, and where mlx-vlm generates otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import make_recipe, run
from vlora.events import Finished

CheckpointFactory = Callable[[str], Path]


def test_the_end_says_where_mlx_vlm_generates_otherwise(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Whoever asks the model through mlx-vlm is told that it is another one, if it is."""
    found = {}
    for family in ("qwen3_vl", "qwen3_vl_moe", "gemma4_moe"):
        *_, end = run(make_recipe(checkpoint(family), rows, tmp_path / family, train__iters=1))
        assert isinstance(end, Finished)
        found[family] = end.difference

    assert found["qwen3_vl"] is None
    assert "activations are exchanged" in str(found["qwen3_vl_moe"])
    assert "images see themselves in full layers too" in str(found["gemma4_moe"])


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_a_question_is_tried_in_the_end(family: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Where no answer is asked for, the end of the run says the same of the command as one with answers would."""
    options = {"data__valid_path": str(rows), "eval__max_new_tokens": 1, "train__iters": 1}
    asked, tried = (
        run(make_recipe(checkpoint(family), rows, tmp_path / str(n_rows), eval__answer_rows=n_rows, **options))[-1]
        for n_rows in (1, 0)
    )
    assert isinstance(asked, Finished)
    assert isinstance(tried, Finished)
    assert tried.unasked == asked.unasked
    if family == "qwen3_vl":
        assert tried.unasked is None
