"""Runs that compute the log-probabilities of the model they start from once, and keep them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run.test_preferences import lines, losses, make_recipe, pairs, run
from vlora.errors import PreferenceError
from vlora.events import Warned

__all__ = ["pairs"]

CheckpointFactory = Callable[[str], Path]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        pytest.param({"model__full_finetune": True}, marks=pytest.mark.slow),
        pytest.param({"model__train_vision": True}, marks=pytest.mark.slow),
        pytest.param({"train__batching": "packed", "data__max_seq_length": 96}, marks=pytest.mark.slow),
    ],
    ids=["lora", "full", "tower", "packed"],
)
def test_kept_log_probabilities_give_the_losses_of_a_live_reference(
    keys: dict[str, Any], checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """Computed before the first step, and on disk for the next run; whatever is trained, it begins with ln 2."""
    model = checkpoint("qwen3_vl")
    recipe = make_recipe(model, pairs, tmp_path / "kept" / "out", preference__precompute=True, **keys)
    events = run(recipe)
    (file,) = (tmp_path / "kept" / "features" / "references").glob("*.npz")
    again = run(recipe)

    assert lines(events, "valid_loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert lines(events, "valid_loss")[-1] < lines(events, "valid_loss")[0]
    assert losses(again) == losses(events)
    assert len(np.load(file)["values"]) == 16
    if "train__batching" in keys or not keys:
        live = run(make_recipe(model, pairs, tmp_path / "live" / "out", **keys))
        assert losses(live) == pytest.approx(losses(events), abs=2e-6)


@pytest.mark.slow
def test_resume_is_exact(checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path) -> None:
    """A run that goes on compares with the model that the first one started from, not with its own state."""
    model = checkpoint("qwen3_vl")
    whole = run(make_recipe(model, pairs, tmp_path / "whole" / "out", preference__precompute=True))
    stopped = make_recipe(model, pairs, tmp_path / "stopped" / "out", preference__precompute=True, features__disk_gb=0)
    n_asked = iter(range(100))
    first = run(stopped, should_stop=lambda: next(n_asked) >= 2)

    assert losses(first) + losses(run(stopped, resume=True)) == losses(whole)


def test_numbers_of_another_model_are_found_out(checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path) -> None:
    """Before the first step answers have to be as likely as what is kept; a damaged file is only told."""
    recipe = make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", preference__precompute=True)
    run(recipe)
    (file,) = (tmp_path / "features" / "references").glob("*.npz")
    found = dict(np.load(file))
    np.savez(file, keys=found["keys"], values=found["values"] - 3)

    with pytest.raises(PreferenceError, match=r"nats per token apart"):
        run(recipe)
    file.write_bytes(b"no archive")
    told = [event.message for event in run(recipe) if isinstance(event, Warned)]
    assert any("cannot be read and is made anew" in message for message in told)
