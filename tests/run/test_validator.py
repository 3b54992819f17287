"""Validation covers the rows that it says, the same ones every time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.streams import write_parquet
from tests.runs import make_recipe, run
from vlora.build import load_data
from vlora.data.readers import stream_parquet
from vlora.data.readers.stream_files import StreamFile
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


@pytest.mark.parametrize("batching", ["shuffled", "packed"])
def test_groups_of_a_streamed_file_are_validated_one_after_another(
    batching: str, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that each is read once, however many rows it has."""
    asked: list[int] = []
    read = stream_parquet._read_group

    def read_noted(file: StreamFile, group: int) -> Any:
        asked.append(group)
        return read(file, group)

    monkeypatch.setattr(stream_parquet, "_read_group", read_noted)
    keys: dict[str, Any] = {"data__streaming": True, "data__split": "train[8:]", "data__valid_split": "train[:8]"}
    keys |= {"data__workers": 1, "train__val_batches": -1, "train__iters": 1, "train__batch_size": 3}
    keys |= {"train__batching": batching, "data__max_seq_length": 64}
    rows = Path(write_parquet(tmp_path / "rows", (12,), 2))
    run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **keys))
    asked = [group for group in asked if group < 4]
    groups = [group for place, group in enumerate(asked) if asked[place - 1 : place] != [group]]

    assert set(groups) == {0, 1, 2, 3}
    assert all(after in (before + 1, 0) for before, after in itertools.pairwise(groups))
