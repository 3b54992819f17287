"""Rows that are held out and were learned: `eval` says so."""

import json
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.runs import make_recipe, run
from vlora.data.opening import read_rows
from vlora.events import Warned
from vlora.recipe.schema import DataSection
from vlora.run.consumed import digest_row
from vlora.run.evaluation import Chosen, evaluate_answers
from vlora.run.leaks import count_learned

CheckpointFactory = Callable[[str], Path]


def warnings(checkpoint: Path, rows: Path, out: Path, *, seed: int = 0, split: str | None = None) -> list[str]:
    """Train once, evaluate on what is held out now into a file of its own, and give the warnings of that."""
    recipe = make_recipe(checkpoint, rows, out, data__valid_fraction=0.4, train__iters=4, eval__max_new_tokens=1)
    if not out.exists():
        run(recipe)
    recipe = attrs.evolve(recipe, train=attrs.evolve(recipe.train, seed=seed))
    chosen = Chosen(split=split, file=out.with_name("answers.jsonl"))
    return [event.message for event in evaluate_answers(recipe, chosen) if isinstance(event, Warned)]


def test_what_was_learned_is_told(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Nothing as long as the same rows are held out; other ones are named, unless they are asked for by name."""
    out, model = tmp_path / "out", checkpoint("qwen3_vl")

    assert warnings(model, rows, out) == []
    assert warnings(model, rows, out, split="train") == []
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines, *lines]) + "\n")
    [message] = warnings(model, rows, out, seed=1)
    assert "rows are among those that the run has learned" in message


def test_rows_are_known_by_what_stands_in_them(tmp_path: Path) -> None:
    """A list, whose damaged lines say nothing; without one, or with another text, none was learned."""
    file = tmp_path / "rows.jsonl"
    texts = [{"question": "a", "answer": "b"}, {"question": "a", "answer": "c"}, {"question": 1}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in texts))
    rows, _ = read_rows(DataSection(path=str(file)))
    weights = tmp_path / "run" / "adapters.safetensors"
    assert count_learned(rows, 3, weights) == 0

    (tmp_path / "run" / "training").mkdir(parents=True)
    listed = tmp_path / "run" / "training" / "learned.jsonl"
    listed.write_text(f'[7, "{digest_row(rows.table[1])}", []]\n[1, ""\nnull\n[1, "", []]\n')
    assert count_learned(rows, 3, weights) == 1
    assert count_learned(rows, 1, weights) == 0
    (tmp_path / "run" / "best").mkdir()
    assert count_learned(rows, 3, tmp_path / "run" / "best") == 1
