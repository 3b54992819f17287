"""A step that is run to see what it takes, beside the plan of it."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from tests.training import picture
from vlora import parse_recipe
from vlora.cli.main import main
from vlora.errors import OutOfMemoryError
from vlora.estimate import measure
from vlora.estimate.measure import fill_randomly, measure_phase, measure_step
from vlora.estimate.plan import Plan, make_plan
from vlora.memory.limits import device_kind
from vlora.recipe.schema import Recipe

Checkpoint = Callable[[str], Path]
TOLERANCE = 0.35
"""On so small a model chance decides how much is queued, and MLX keeps arrays of its own."""


@pytest.fixture
def recipe(checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Recipe]:
    """Make recipes of rows with an image."""
    picture(64, 64).save(tmp_path / "one.png")
    (tmp_path / "rows.jsonl").write_text('{"question": "What?", "answer": "this one", "image": "one.png"}\n' * 4)

    def make(**keys: Any) -> Recipe:
        found = {"model.path": str(checkpoint("qwen3_vl")), "data.path": str(tmp_path / "rows.jsonl")}
        return parse_recipe("", {**found, "train.batch_size": 2, **keys})

    return make


@pytest.mark.parametrize(
    "keys",
    [{}, {"model.quantize_bits": 4, "train.grad_checkpoint": True, "train.gradient_accumulation_steps": 8}],
    ids=["lora", "qlora"],
)
def test_measured_is_planned(keys: dict[str, Any], recipe: Callable[..., Recipe]) -> None:
    """Nearly, and nothing of it is left in memory."""
    plan = make_plan(recipe(**keys), with_longest=False)
    gc.collect()
    held = mx.get_active_memory()
    measured = measure_step(recipe(**keys), plan)
    gc.collect()

    assert measured == pytest.approx(plan.peak, rel=TOLERANCE)
    assert mx.get_active_memory() <= held + 2**16


def test_phases_are_measured(tmp_path: Path) -> None:
    """A validation and answers, beside the state of the training; nothing of them is left in memory."""
    keys = {"model.path": "builtin:tiny-qwen3-vl", "model.full_finetune": True, "data.path": "builtin:digits"}
    rows = {"data.config": "digit", "data.split": "train[:20]", "data.valid_split": "test[:20]"}
    answers = {"eval.answer_rows": 16, "eval.max_new_tokens": 3, "output.path": str(tmp_path / "out")}
    recipe = parse_recipe("", {**keys, **rows, **answers, "train.batch_size": 16})
    plan = make_plan(recipe, with_longest=False)
    gc.collect()
    held = mx.get_active_memory()
    measured = {phase.name: measure_phase(recipe, plan, phase) for phase in plan.phases}
    gc.collect()

    assert measured == {phase.name: pytest.approx(phase.nbytes, rel=TOLERANCE) for phase in plan.phases}
    assert list(measured) == ["validation", "answers"]
    assert mx.get_active_memory() <= held + 2**16


def test_weights_take_memory_and_are_not_read() -> None:
    """Each is as large as it was, in its own type; they are the same for a seed, and not all alike."""
    layers = [nn.Linear(64, 32), nn.Linear(64, 32)]
    for layer in layers:
        layer.update({"weight": mx.broadcast_to(mx.zeros((), mx.bfloat16), (32, 64))})
        fill_randomly(layer, seed=3)
    packed = nn.QuantizedLinear(64, 32, bits=4)
    fill_randomly(packed, seed=3)
    pairs = zip(
        tree_flatten(packed.parameters()), tree_flatten(nn.QuantizedLinear(64, 32, bits=4).parameters()), strict=True
    )

    assert layers[0].weight.dtype == mx.bfloat16
    assert mx.array_equal(layers[0].weight, layers[1].weight)
    assert len(set(layers[0].weight.astype(mx.float32).flatten().tolist())) > 100
    for (name, value), (other, wanted) in pairs:
        assert (name, value.shape, value.dtype) == (other, wanted.shape, wanted.dtype)


def test_the_command(recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The measured peak stands behind the plan, and does not change the verdict."""
    given = recipe()
    file = tmp_path / "recipe.toml"
    file.write_text(f'[model]\npath = "{given.model.path}"\n[data]\npath = "{given.data.path}"\n')

    assert main(["plan", str(file), "--measure", "--memory-gb", "0.000001"]) == 2
    printed = capsys.readouterr().out
    assert "does not fit into" in printed
    assert "measured on random weights:\n  a training step" in printed
    assert "(the plan is " in printed


@pytest.mark.skipif(device_kind() != "cpu", reason="elsewhere MLX says so itself")
def test_what_does_not_fit_is_not_run(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX would crash on a CPU: the plan is believed, in one sentence."""
    plan: Plan = make_plan(recipe(), with_longest=False)
    monkeypatch.setattr(measure, "process_memory", lambda: plan.peak - 1)
    monkeypatch.setattr(measure, "_make_model", lambda *_: pytest.fail("the step was run"))
    with pytest.raises(OutOfMemoryError, match=r"^measuring a step: out of memory with 2 rows .* may have .*; lower"):
        measure_step(recipe(), plan)
