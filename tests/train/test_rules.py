"""Rules of training against what transformers and PEFT do (golden/rules/rules.json), and those of older states."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest

from vlora import make_optimizer
from vlora.adapters.model_parts import ModelParts
from vlora.recipe.schema import OptimSection
from vlora.train.flat_params import FlatParams
from vlora.train.parameter_rates import lr_multipliers, undecayed
from vlora.train.rules import Rules, parse_rules
from vlora.train.schedules import learning_rate_at
from vlora.train.update import Update
from vlora.types import TrainState

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rules" / "rules.json").read_text(encoding="utf-8"))
PEFT_NAMES = {"lora_A.default.weight": "lora_a", "lora_B.default.weight": "lora_b", "magnitude_vector": "m"}


def own_name(name: str) -> str:
    """Spell a parameter of PEFT's as vlora does."""
    name = re.sub(r"^base_model\.model\.|lora_(?=magnitude_vector)|(?<=magnitude_vector)\.default\.weight", "", name)
    return functools.reduce(lambda text, pair: text.replace(*pair), PEFT_NAMES.items(), f"language_model.{name}")


def take_steps(
    named: dict[str, Any], section: OptimSection, rules: Rules | None = None, n_steps: int = 3
) -> dict[str, mx.array]:
    """Take steps of a run with known gradients, through the update of the training step."""
    params = {name: mx.array(value["value"]) for name, value in named.items()}
    gradients = {name: mx.array(value["gradient"]) for name, value in named.items()}
    optimizer = make_optimizer(section)
    optimizer.init(params)
    state = TrainState(params, dict(optimizer.state), mx.array(0))
    update = Update(
        optimizer,
        lr_multipliers=lr_multipliers(params, ModelParts(language="language_model"), section, rules),
        undecayed=undecayed(params, section, rules),
    )
    one = mx.array(1.0)
    for _ in range(n_steps):
        state, _, _ = update.apply(state, gradients, one, one, mx.array(section.learning_rate))
    assert optimizer.weight_decay == section.weight_decay
    return state.params


@pytest.mark.parametrize("run", GOLDEN["schedules"], ids=lambda run: f"{run['schedule']}-{run['n']}-{run['warmup']}")
def test_rates_are_those_of_transformers(run: dict[str, Any]) -> None:
    """Every step of every schedule, the warmup included."""
    section = OptimSection(schedule=run["schedule"], warmup_steps=run["warmup"], learning_rate=GOLDEN["rate"])

    found = [learning_rate_at(step, run["n"], section) for step in range(1, run["n"] + 1)]

    assert found == pytest.approx(run["rates"], rel=1e-9, abs=1e-15)


def test_what_decays_is_what_the_trainer_lets_decay() -> None:
    """Three steps of full fine-tuning end where torch's AdamW does in the Trainer's groups."""
    named = {f"language_model.{name}": value for name, value in GOLDEN["full"]["params"].items()}
    section = OptimSection(learning_rate=GOLDEN["rate"], weight_decay=GOLDEN["decay"])
    kept = undecayed({name: mx.array(value["value"]) for name, value in named.items()}, section)

    found = take_steps(named, section)

    assert set(named) - kept == {f"language_model.{name}" for name in GOLDEN["full"]["decayed"]}
    for name, value in named.items():
        assert mx.allclose(found[name], mx.array(value["after"]), rtol=1e-5, atol=2e-5), name
    everything = take_steps(named, attrs.evolve(section, decay_all=True))
    for name in kept:
        assert not mx.allclose(everything[name], found[name], rtol=1e-5, atol=2e-5), name


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd", "adafactor", "muon"])
def test_the_step_lets_decay_as_the_optimizer_does(optimizer: str) -> None:
    """What decays ends where it does when everything decays, with every optimizer."""
    named = {f"language_model.{name}": value for name, value in GOLDEN["full"]["params"].items()}
    section = OptimSection(name=optimizer, learning_rate=GOLDEN["rate"], weight_decay=GOLDEN["decay"])  # type: ignore[arg-type]
    kept = undecayed({name: mx.array(value["value"]) for name, value in named.items()}, section)

    some, everything = take_steps(named, section), take_steps(named, attrs.evolve(section, decay_all=True))
    none = take_steps(named, attrs.evolve(section, weight_decay=0.0))

    for name in named:
        like = none if name in kept else everything
        assert mx.allclose(some[name], like[name], rtol=1e-5, atol=2e-5), name


def test_packed_parameters_decay_each_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are updated as one decay as they do alone."""
    monkeypatch.setattr("vlora.train.flat_params.PACKED_MULTIPLE", 1)
    named = {f"language_model.{name}": value for name, value in GOLDEN["full"]["params"].items()}
    params = {name: mx.array(value["value"]) for name, value in named.items()}
    gradients = {name: mx.array(value["gradient"]) for name, value in named.items()}
    section = OptimSection(learning_rate=GOLDEN["rate"], weight_decay=GOLDEN["decay"])
    optimizer = make_optimizer(section)
    packing = FlatParams.of(params, optimizer)
    optimizer.init(packing.pack(params))
    state = TrainState(packing.pack(params), dict(optimizer.state), mx.array(0))
    update = Update(optimizer, undecayed=undecayed(params, section), packing=packing)
    one = mx.array(1.0)
    for _ in range(3):
        state, packed, _ = update.apply(state, gradients, one, one, mx.array(section.learning_rate))
        state = state._replace(params=packed)

    found = packing.unpack(state.params)

    assert packing.shapes.keys() == params.keys()
    for name, value in named.items():
        assert mx.allclose(found[name], mx.array(value["after"]), rtol=1e-5, atol=2e-5), name


def test_magnitudes_have_the_rate_of_b() -> None:
    """Three steps of a DoRA with LoRA+ end where PEFT's do."""
    named = {own_name(name): value for name, value in GOLDEN["dora"].items()}
    section = OptimSection(learning_rate=GOLDEN["rate"], lora_plus_ratio=GOLDEN["ratio"])

    found = take_steps(named, section)

    factors = lr_multipliers(named, ModelParts(language="language_model"), section)
    assert {name.rpartition(".")[2] for name in factors} == {"lora_b", "m"}
    for name, value in named.items():
        factor = factors.get(name, 1.0)
        assert factor * GOLDEN["rate"] == pytest.approx(value["rate"])
        # Both packages name A and B alike but for the transposition, which no element's update sees.
        assert mx.allclose(found[name], mx.array(value["after"]), rtol=1e-5, atol=2e-5), name


def test_older_states_go_on_as_they_began() -> None:
    """A state that names no rules has those of before there were numbers."""
    section = OptimSection(learning_rate=1.0, warmup_steps=4, weight_decay=0.1, lora_plus_ratio=8.0)
    oldest = parse_rules(None, "state")

    assert [learning_rate_at(step, 9, section, oldest) for step in (1, 4, 5)] == [0.25, 1.0, 1.0]
    assert [learning_rate_at(step, 9, section) for step in (1, 4, 5)] == [0.0, 0.75, 1.0]
    assert not undecayed({"norm.weight": mx.zeros(3)}, section, oldest)
    names = ["language_model.q.lora_a", "language_model.q.lora_b", "language_model.q.m"]
    assert lr_multipliers(names, ModelParts(language="language_model"), section, oldest) == {names[1]: 8.0}
