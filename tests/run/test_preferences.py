"""Whole runs over preferences: their losses before the first step, exact resume, every objective, what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.training import picture
from vlora import Recipe, fit, parse_recipe
from vlora.errors import PreferenceError, VloraError
from vlora.events import Event, Reported, StepReport
from vlora.recipe.preference import LOSSES
from vlora.train.reference import Reference

CheckpointFactory = Callable[[str], Path]
WORDS = ("a red square", "two hats", "no", "yes or no", "three", "hi hi there")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Write eight rows with two answers, seven of them with an image."""
    lines = []
    for number in range(8):
        image = tmp_path / f"{number}.png"
        picture(48, 32, number).save(image)
        row = {"prompt": f"What is {number}?", "chosen": WORDS[number % 6], "rejected": WORDS[(number + 2) % 6]}
        lines.append(json.dumps({**row, "images": [image.name]} if number else row))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return path


def make_recipe(model: Path, rows: Path, output: Path, **keys: Any) -> Recipe:
    """Make a recipe of six steps."""
    named = {name.replace("__", "."): value for name, value in keys.items()}
    own: dict[str, Any] = {
        "model.path": str(model),
        "data.path": str(rows),
        "data.valid_path": str(rows),
        "data.workers": 0,
        "optim.learning_rate": 3e-3,
        "train.objective": "dpo",
        "train.batch_size": 3,
        "train.iters": 6,
        "train.steps_per_report": 2,
        "train.steps_per_eval": 6,
        "output.path": str(output),
        "output.report": False,
        "features.path": str(output.parent / "features"),
    }
    return parse_recipe("", {**own, **named})


def run(recipe: Recipe, **options: Any) -> list[Event]:
    """Carry it out."""
    return list(fit(recipe, **options))


def losses(events: list[Event]) -> list[float]:
    """List the losses of the steps."""
    return [event.loss for event in events if isinstance(event, StepReport)]


def lines(events: list[Event], key: str) -> list[float]:
    """List a value of metrics.jsonl."""
    return [float(event.metrics[key]) for event in events if isinstance(event, Reported) and key in event.metrics]


@pytest.mark.parametrize(
    "keys",
    [{}, pytest.param({"model__quantize_bits": 4, "model__quantize_group_size": 32}, marks=pytest.mark.slow)],
    ids=["16 bit", "4 bit"],
)
def test_a_run_learns_preferences(
    keys: dict[str, Any], checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """It begins with ln 2 and no margin, and ends with a lower loss and preferred answers ahead."""
    events = run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", **keys))
    valid, margins = lines(events, "valid_loss"), lines(events, "valid_rewards/margins")

    assert losses(events)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert valid[0] == pytest.approx(math.log(2), abs=1e-5)
    assert margins[0] == pytest.approx(0.0, abs=1e-5)
    assert valid[-1] < 0.6
    assert margins[-1] > 0.2
    assert lines(events, "valid_rewards/accuracies")[-1] > 0.8
    assert lines(events, "rewards/margins")[-1] > lines(events, "rewards/margins")[0]
    assert [event.n_terms for event in events if isinstance(event, StepReport)] == [3, 3, 2, 3, 3, 2]


APO: dict[str, Any] = {"preference__loss": ["apo_zero_unpaired"]}


@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        ("kto", {}),
        ("kto", APO),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in LOSSES if name not in ("dpo", "kto")),
    ],
)
def test_every_objective_runs(
    objective: str, keys: dict[str, Any], checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """On the same rows, with validation; KTO takes a pair for two rows."""
    events = run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", train__objective=objective, **keys))
    valid = lines(events, "valid_loss")

    assert valid[-1] < valid[0]
    assert lines(events, "rewards/margins")[-1] > lines(events, "rewards/margins")[0]
    if objective == "kto":
        assert losses(events)[0] == pytest.approx(0.5, abs=1e-4)
        assert bool(lines(events, "kl")) == (not keys)


@pytest.mark.parametrize("batching", ["shuffled", "packed"])
def test_one_row_may_be_held_out_for_kto(
    batching: str, checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """Validation learns nothing from a divergence: without another row to estimate it from it is 0."""
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"prompt": "What is 1?", "completion": "one", "label": True}))
    keys = {"train__objective": "kto", "train__batching": batching, "data__max_seq_length": 96}
    events = run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", data__valid_path=str(one), **keys))

    assert lines(events, "valid_loss")[0] == pytest.approx(0.5, abs=1e-4)
    assert lines(events, "valid_kl") == [0.0] * len(lines(events, "valid_loss"))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"train__objective": "kto", **APO}], ids=["dpo", "marked"])
def test_packed_answers_are_learned_as_those_apart(
    keys: dict[str, Any], checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """A step over all rows has the loss and the margin that it has without packing; so has the one behind it."""
    found = []
    for batching in ("shuffled", "packed"):
        own = {"data__max_seq_length": 96, "train__batch_size": 64, "train__batching": batching}
        own |= {"train__iters": 3, "train__steps_per_report": 1}
        events = run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / batching, **keys, **own))
        found.append([*losses(events), *lines(events, "rewards/margins")])

    assert len(found[0]) == 6
    assert found[0][1] < found[0][0]
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        pytest.param({"train__objective": "kto"}, marks=pytest.mark.slow),
        pytest.param({"train__batching": "packed"}, marks=pytest.mark.slow),
        pytest.param({"train__objective": "kto", **APO, "train__batching": "packed"}, marks=pytest.mark.slow),
        pytest.param({"train__objective": "kto", "train__batching": "packed"}, marks=pytest.mark.slow),
        {"train__objective": "kto", "train__batching": "packed", "data__streaming": True, "data__shuffle_buffer": 3},
    ],
    ids=["dpo", "kto", "packed", "packed marks", "packed kto", "packed kto streamed"],
)
def test_resume_is_exact(keys: dict[str, Any], checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path) -> None:
    """Stopped and gone on, a run ends with the weights of one that was not, to the bit."""
    model = checkpoint("qwen3_vl")
    keys = {"data__max_seq_length": 96, **keys}
    whole = run(make_recipe(model, pairs, tmp_path / "whole" / "out", **keys))
    stopped = make_recipe(model, pairs, tmp_path / "stopped" / "out", **keys)
    n_asked = iter(range(100))
    first = run(stopped, should_stop=lambda: next(n_asked) >= 2)
    second = run(stopped, resume=True)

    assert 0 < len(losses(first)) < len(losses(whole))
    assert losses(first) + losses(second) == losses(whole)
    ends = [(tmp_path / name / "out" / "adapters.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert ends[0] == ends[1]


def test_going_on_from_an_adapter_its_copy_is_the_reference(
    checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """A second run begins with no margins to the first one's end."""
    model = checkpoint("qwen3_vl")
    run(make_recipe(model, pairs, tmp_path / "first"))
    adapter = str(tmp_path / "first" / "adapters.safetensors")
    events = run(make_recipe(model, pairs, tmp_path / "second", model__adapter_path=adapter))

    assert losses(events)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses(events)[-1] < math.log(2)


def test_a_run_whose_reference_is_another_model_does_not_begin(
    checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step answers have to be as likely as in the reference; nothing is written."""

    def other(_: Recipe, backbone: Any, params: dict[str, mx.array]) -> Reference:
        return Reference(backbone, {name: value + 0.3 for name, value in params.items()})

    monkeypatch.setattr("vlora.run.start.make_reference", other)

    with pytest.raises(PreferenceError, match=r"nats per token apart, and the loss is .* where it would be 0.693"):
        run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out"))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_more_than_adapters_needs_kept_log_probabilities(
    checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path
) -> None:
    """Full fine-tuning has no model to switch back to within a step."""
    with pytest.raises(VloraError, match=r"preference.precompute"):
        run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", model__full_finetune=True))
