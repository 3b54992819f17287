"""A recipe's objective is what steps and validations minimise."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import mlx.core as mx
import pytest

from vlora import fit, loss_fn, parse_recipe
from vlora.build import BUILTIN_MODEL
from vlora.events import Reported, StepReport
from vlora.recipe.preference import LOSSES, PreferenceSection
from vlora.recipe.schema import TrainSection
from vlora.train.objectives.named import OBJECTIVES, find_objective
from vlora.train.objectives.objective import Objective


def test_every_name_has_an_objective() -> None:
    """The recipe knows the same names."""
    names = get_args(get_type_hints(TrainSection)["objective"])

    assert set(names) == {*OBJECTIVES, *LOSSES}
    assert find_objective("sft", PreferenceSection()) is loss_fn
    assert all(isinstance(find_objective(name, PreferenceSection()), Objective) for name in LOSSES)


def test_steps_and_validations_have_the_same_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another function under its name, and both report that one's losses."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": "Which?", "answer": str(number)}) for number in range(4)))
    keys = {"model.path": BUILTIN_MODEL, "data.path": str(rows), "data.valid_path": str(rows), "train.iters": 1}

    def losses(name: str) -> tuple[float, float]:
        recipe = parse_recipe("", {**keys, "train.objective": "sft", "output.path": str(tmp_path / name / "adapter")})
        events = list(fit(recipe))
        steps = [event.loss for event in events if isinstance(event, StepReport)]
        reported = [event.metrics for event in events if isinstance(event, Reported)]
        return steps[0], next(float(metrics["valid_loss"]) for metrics in reported if "valid_loss" in metrics)

    def doubled(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        nll, count = loss_fn(logits, targets, weights)
        return 2 * nll, count

    own = losses("own")
    monkeypatch.setitem(OBJECTIVES, "sft", doubled)

    assert losses("doubled") == pytest.approx((2 * own[0], 2 * own[1]), rel=1e-5)
