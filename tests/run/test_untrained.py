"""What a run says of its model before the first step."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import losses, make_recipe, run
from vlora.cli.sentences import describe_untrained, explain_guessing
from vlora.events import Event, Reported, StepReport, Untrained
from vlora.run import untrained

CheckpointFactory = Callable[[str], Path]


def told(events: list[Event]) -> list[Untrained]:
    """List what was said of the untrained model."""
    return [event for event in events if isinstance(event, Untrained)]


def test_the_first_steps_loss_is_told(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Without rows to validate on it is that of the first step, told once, and not again where a run goes on."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")
    n_asked = iter(range(100))
    events = run(recipe, should_stop=lambda: next(n_asked) >= 2)
    (found,) = told(events)

    assert (found.loss, found.is_held_out) == (losses(events)[0], False)
    assert isinstance(events[events.index(found) - 1], StepReport)
    assert found.guessing == math.log(found.n_tokens)
    # Its weights are random.
    assert found.is_guessing
    assert not told(run(recipe, resume=True))


def test_the_validations_loss_is_told_before_the_first_step(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Where there are rows to validate on."""
    events = run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(rows)))
    (found,) = told(events)
    valid = [
        event.metrics["valid_loss"] for event in events if isinstance(event, Reported) and "valid_loss" in event.metrics
    ]

    assert (found.loss, found.is_held_out) == (valid[0], True)
    assert not [event for event in events[: events.index(found)] if isinstance(event, StepReport)]


def test_a_model_that_knows_is_not_suspected(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss clearly below that of guessing is said without a warning; the rule is a share of it."""
    monkeypatch.setattr(untrained, "SHARE", 1e9)
    (found,) = told(run(make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", train__iters=1)))

    assert not found.is_guessing


@pytest.mark.parametrize(("is_random", "words"), [(True, "as the built-in model has to be"), (False, "chat template")])
def test_sentences(is_random: bool, words: str) -> None:
    """The built-in model is random by design; of others it is said what may be wrong."""
    event = Untrained(
        loss=12.5, is_held_out=False, n_tokens=151936, guessing=11.9312, is_guessing=True, is_random=is_random
    )

    assert describe_untrained(event) == (
        "untrained: loss 12.5000 on the rows of the first step; guessing evenly among 151,936 tokens has 11.9312"
    )
    assert words in explain_guessing(event)
