"""The rows that decide what a run needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlora import parse_recipe
from vlora.estimate.longest import LongestRows, blank_example, find_longest_rows
from vlora.models import answer_options
from vlora.models.forward.segments import place_apart

CheckpointFactory = Callable[[str], Path]


def test_the_first_token_is_never_supervised() -> None:
    """Nothing predicts it."""
    assert not blank_example(8, 0.5).supervised[0]


def find(checkpoint: CheckpointFactory, folder: Path, n_rows: int | None = None, **keys: Any) -> LongestRows:
    """Find the longest of ten rows to train on and ten held out, questions shrinking as answers grow."""
    for name in ("train", "valid"):
        lines = [{"question": "word " * (10 - row), "answer": "word " * (1 + 5 * row)} for row in range(10)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = parse_recipe(
        "",
        {
            "model.path": str(checkpoint("qwen3_vl")),
            "data.path": str(folder / "train.jsonl"),
            "data.valid_path": str(folder / "valid.jsonl"),
            "train.batch_size": 2,
            "eval.answer_rows": -1,
            "eval.batch_size": 3,
            **{name.replace("__", "."): value for name, value in keys.items()},
        },
    )
    return find_longest_rows(recipe, answer_options(recipe, 0), n_rows)


def test_rows_of_each_kind_are_found(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Batches have the longest rows, and questions are measured without their answers."""
    found = find(checkpoint, tmp_path)
    assert found.valid is not None
    lengths = sorted((len(row.tokens) for row in found.valid.rows), reverse=True)

    assert [row.source.rpartition(" ")[2] for row in found.train.rows] == ["9", "8"]
    assert lengths == [len(row.tokens) for row in found.train.rows]
    assert [prompt.example.source.rpartition(" ")[2] for prompt in found.prompts] == ["0", "1", "2"]
    assert found.train_source == found.valid_source == "the longest of all 10 rows"


def test_rows_that_nothing_is_done_with_are_not_looked_at(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Only the rows that are answered, or that a caller wants to look at, count."""
    assert not find(checkpoint, tmp_path, eval__answer_rows=0).prompts
    asked = find(checkpoint, tmp_path, eval__answer_rows=2)
    first = find(checkpoint, tmp_path, 4)

    assert len(asked.prompts) == 2
    assert asked.prompts_source == "the longest of 2"
    assert first.train_source == "the longest of the first 4 rows"
    assert first.train.rows[0].source.endswith(" 3")


def test_bad_rows_do_not_stand_for_the_others(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """The longest of those that can be learned from are taken, and what was passed over is said with its reason."""
    found = find(checkpoint, tmp_path, data__max_seq_length=60, data__train_on_completions=True)

    assert not found.unread
    assert [len(row.tokens) for row in found.train.rows] == [60, 60]
    assert (
        ", without 2 rows that cannot be read (train.jsonl train row 0: line 1 of train.jsonl: no token is"
        in found.train_source
    )
    assert [prompt.length for prompt in found.prompts] == [57, 52, 47]
    assert "its question of 67 tokens leaves no room" in found.prompts_source


def test_questions_none_of_which_is_asked(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Need nothing, and the rows are those of the data all the same."""
    found = find(checkpoint, tmp_path, data__max_seq_length=60, data__train_on_completions=True, eval__answer_rows=2)

    assert not found.unread
    assert not found.prompts


def test_questions_behind_many_that_are_not_asked(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """However many longer ones have an answer that is marked as unwanted."""
    marks = [{"prompt": "word " * (60 - row), "completion": "word", "label": row > 50} for row in range(60)]
    (tmp_path / "marks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marks))
    keys: dict[str, Any] = {
        "train__objective": "kto",
        "eval__batch_size": 2,
        "data__valid_path": str(tmp_path / "marks.jsonl"),
    }
    found = find(checkpoint, tmp_path, **keys, data__path=str(tmp_path / "marks.jsonl"))

    assert [prompt.example.source.rpartition(" ")[2] for prompt in found.prompts] == ["51", "52"]


def test_rows_that_cannot_be_read(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Each kind is taken to be as long as it may be, and the reason is said."""
    found = find(checkpoint, tmp_path, data__valid_path="none.jsonl", data__max_seq_length=96, eval__answer_rows=2)

    assert found.valid is not None
    assert {len(row.tokens) for batch in (found.train, found.valid) for row in batch.rows} == {96}
    assert [prompt.length for prompt in found.prompts] == [95, 95]
    assert "none.jsonl" in found.train_source
    assert "none.jsonl" in found.prompts_source


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_packs_are_full(objective: str, checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Whatever the rows, and with what they are joined to; questions are asked one by one all the same."""
    keys: dict[str, Any] = {"train__batching": "packed", "train__pack_length": 64, "data__max_seq_length": 64}
    found = find(checkpoint, tmp_path, train__objective=objective, **keys)

    assert found.train.tokens.shape == (2, 64)
    # Attention over whole packs needs the most.
    assert not place_apart(found.train.spans, 2, 64)
    assert found.valid is not None
    assert found.valid.tokens.shape == (2, 64)
    assert len(found.prompts) == 3
