"""Rows of a plan where answers are compared, and the plan of a step and of a validation on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.estimate.test_plan import TOLERANCE
from vlora import parse_recipe
from vlora.estimate.comparing import compare_blanks, join_rows
from vlora.estimate.longest import blank_example
from vlora.estimate.measure import measure_step
from vlora.estimate.plan import make_plan
from vlora.train.objectives.preference import MISMATCHED, PREFERRED, split_reference


@pytest.mark.parametrize(
    ("keys", "n_examples", "columns"),
    [
        ({}, 2, set()),
        ({"train.objective": "dpo"}, 4, {PREFERRED}),
        ({"train.objective": "dpo", "preference.precompute": True}, 4, {PREFERRED, *split_reference(0.0)}),
        ({"train.objective": "kto"}, 4, {PREFERRED, MISMATCHED}),
        ({"train.objective": "kto", "preference.loss": ["apo_zero_unpaired"]}, 2, {PREFERRED}),
    ],
)
def test_a_microbatch_has_as_many_examples_as_in_a_run(
    keys: dict[str, Any], n_examples: int, columns: set[str]
) -> None:
    """Two rows: both answers of pairs, a mismatched answer for each of KTO's; with what the objective reads."""
    recipe = parse_recipe("", {"data.path": "-", **keys})
    row = compare_blanks(recipe, blank_example(12, 0.5))

    made = join_rows(recipe, [row, row])

    assert len(made) == n_examples
    assert all(example.columns.keys() == columns for example in made)
    assert len({example.group for example in made}) == (2 if columns and len(made) == 4 else 1)


@pytest.mark.parametrize("objective", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_pairs_are_planned(objective: str, checkpoint: Callable[[str], Path]) -> None:
    """With all examples of a row and the pass of the reference, a step takes about what is measured."""
    keys = {"model.path": str(checkpoint("qwen3_vl")), "data.path": "none.jsonl", "data.max_seq_length": 64}
    keys |= {"train.batch_size": 4, "data.valid_path": "none.jsonl"}
    plain = make_plan(parse_recipe("", keys), with_longest=False)
    recipe = parse_recipe("", {**keys, "train.objective": objective})
    # In all that a machine has, the search for the longest row is long.
    plan = make_plan(recipe, memory_gb=0.03)

    assert plan.batch.tokens.shape[0] == 8
    assert plan.step_peak > plain.step_peak
    assert plan.longest is not None
    assert plan.step_peak / measure_step(recipe, plan) == pytest.approx(1, abs=TOLERANCE)
    assert {phase.name for phase in plan.phases if phase.nbytes} == {"validation"}
