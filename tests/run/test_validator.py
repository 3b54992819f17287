"""Validation covers the rows that it says, the same ones every time."""

from collections.abc import Callable
from pathlib import Path

from tests.runs import make_recipe, run
from vlora.build import load_data
from vlora.events import Reported

N_ROWS = 7
CheckpointFactory = Callable[[str], Path]


def test_validation_covers_what_it_says(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """All validation rows with val_batches = -1, and otherwise as many as the report says; the loss is per token."""
    model = checkpoint("qwen3_vl")
    recipes = [
        make_recipe(
            model,
            rows,
            tmp_path / str(n),
            data__valid_path=str(rows),
            train__val_batches=n,
            train__iters=1,
        )
        for n in (-1, 2)
    ]
    first = [next(e.metrics for e in run(recipe) if isinstance(e, Reported)) for recipe in recipes]
    data = load_data(recipes[0])
    tokens = sum(int(data.encoder(data.train[index]).supervised.sum()) for index in range(N_ROWS))

    assert (first[0]["valid_rows"], first[0]["valid_tokens"]) == (N_ROWS, tokens)
    assert first[1]["valid_rows"] == 4
