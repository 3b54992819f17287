"""Runs that compute the log-probabilities of the model they start from once, and keep them."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.run.test_preferences import lines, losses, make_recipe, pairs, run
from vlora import Batch, Recipe, collate, load_data, parse_recipe
from vlora.cli.main import main
from vlora.data.collate import make_stand_in
from vlora.errors import PreferenceError
from vlora.events import Event, Warned
from vlora.features.kept_numbers import KeptNumbers
from vlora.output.checkpoint import read_arrays
from vlora.run import start
from vlora.run.context import RunContext
from vlora.run.kept_reference import _Kept, _name, _unknown, keep_reference
from vlora.train.objectives.preference import REFERENCE, REFERENCE_REST
from vlora.train.reference import Reference, make_reference, make_reference_step
from vlora.train.state import bound_params
from vlora.types import Inputs, TrainState

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
        assert losses(live) == pytest.approx(losses(events), abs=1e-6)


@pytest.mark.slow
def test_long_answers_lose_nothing(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Sums of -700 nats have a last digit of 6e-5 in float32; batches of other lengths add them up in other orders."""
    random, rows = np.random.default_rng(7), tmp_path / "long.jsonl"

    def answer() -> str:
        return " ".join(
            random.choice(
                ["a", "small", "red", "round", "photo", "of", "three", "digits", "on", "paper"], random.integers(5, 45)
            )
        )

    texts = [{"prompt": f"Row {number}?", "chosen": answer(), "rejected": answer()} for number in range(12)]
    rows.write_text("\n".join(map(json.dumps, texts)))
    live, kept = (
        run(
            make_recipe(
                checkpoint("llava"),
                rows,
                tmp_path / name,
                preference__precompute=name == "kept",
                train__steps_per_report=1,
            )
        )
        for name in ("live", "kept")
    )

    assert min(lines(live, "logps/chosen")) < -400
    np.testing.assert_allclose(losses(kept), losses(live), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_resume_is_exact(checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path) -> None:
    """A run that goes on compares with the model that the first one started from, not with its own state."""
    model = checkpoint("qwen3_vl")
    whole = run(make_recipe(model, pairs, tmp_path / "whole" / "out", preference__precompute=True))
    stopped = make_recipe(model, pairs, tmp_path / "stopped" / "out", preference__precompute=True, features__disk_gb=0)
    n_asked = iter(range(100))
    first = run(stopped, should_stop=lambda: next(n_asked) >= 2)

    assert losses(first) + losses(run(stopped, resume=True)) == losses(whole)


def test_devices_keep_the_same_numbers(checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path) -> None:
    """Each reads its share of the rows, and keeps what all have told."""
    recipe = make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out")
    data, ranks = load_data(recipe), range(2)
    found = [_Kept(data, cast("Any", None), KeptNumbers(None)) for _ in ranks]
    for rank, kept in enumerate(found):
        encode = kept.watched(data.encode)
        for number, example in enumerate(example for row in ranks for example in encode(data.train[row + rank])):
            kept.numbers.numbers[kept._keys[_name(example)]] = float(10 * rank + number)
    told = [json.loads(json.dumps(kept.tell())) for kept in found]
    for kept in found:
        kept.learn(told)

    assert found[0].numbers.numbers == found[1].numbers.numbers
    assert sorted(found[0].numbers.numbers.values()) == [0, 1, 10, 11, 12, 13]
    for kept in found:
        examples = [example for row in range(3) for example in kept.completed(data.encode)(data.train[row])]
        assert [example.columns[REFERENCE] for example in examples] == [0, 1, 10, 11, 12, 13]


def test_features_are_shared_behind_the_first_epoch_all_the_same(
    checkpoint: CheckpointFactory, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are found may be of a run that kept no features, or of features that are gone."""
    seen: list[bool] = []

    def watched(context: RunContext) -> Generator[Event, None, None]:
        yield from keep_reference(context)
        seen.append(context.has_all_features)

    monkeypatch.setattr(start, "keep_reference", watched)
    run(make_recipe(checkpoint("qwen3_vl"), pairs, tmp_path / "out", preference__precompute=True, train__iters=1))

    assert seen == [False]


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


@pytest.mark.parametrize(("gathers", "n_needed", "n_given"), [(True, 1, 2), (True, 0, 0), (False, 0, 1)])
def test_ranks_with_divided_weights_run_together(gathers: bool, n_needed: int, n_given: int) -> None:
    """A rank whose rows are all known runs a stand-in where another one has a row, and keeps nothing of it."""
    stand_in = make_stand_in(5)
    batch = stand_in._replace(is_stand_in=False)
    given = [[stand_in], [stand_in if gathers else batch]]
    loader = SimpleNamespace(batch_size=2, data=SimpleNamespace(prefetch=1), collate=lambda *_: given)
    ranks = SimpleNamespace(rank=0, size=2, sum=lambda found: (found + n_needed,))
    run_of_rank: Any = SimpleNamespace(loader=loader, ranks=ranks, backbone=SimpleNamespace(gathers=gathers))
    rows: Any = range(4)
    kept = _Kept(cast("Any", None), cast("Any", None), KeptNumbers(None))
    found = list(_unknown(run_of_rank, rows, kept))

    assert len(found) == n_given
    if gathers:
        for each in found:
            kept.take(each, mx.zeros((1,)))
        assert not kept.numbers.numbers


RECIPE = """
[model]
path = "builtin:tiny-qwen3-vl"
[data]
path = "builtin:digits"
config = "preference"
split = "train[:24]"
[optim]
learning_rate = 1e-3
[train]
objective = "dpo"
batch_size = 4
iters = 50
steps_per_report = 1
[features]
path = "features"
[output]
report = false
path = "live"
"""

FRESH = """
import json, sys
import vlora
import mlx.core as mx
from tests.run.test_kept_reference import make_batch, read_recipe
from vlora import TrainState, models
from vlora.train.reference import make_reference_step
recipe = read_recipe(sys.argv[1])
backbone, _ = models.load_backbone(vlora.load_data(recipe).files, recipe.model)
backbone.module.freeze()
print(json.dumps(make_reference_step(backbone)(TrainState({}, {}, mx.array(0)), make_batch(recipe)).tolist()))
"""


def read_recipe(path: str) -> Recipe:
    """Read a recipe from a file."""
    return parse_recipe(Path(path).read_text())


def make_batch(recipe: Recipe) -> Batch:
    """Make a batch of both answers of six of its rows."""
    data = load_data(recipe)
    rows = [data.encode(data.train[number]) for number in range(6)]
    return collate([attrs.evolve(row, group=number) for number, pair in enumerate(rows) for row in pair])


def read_losses(output: Path) -> list[float]:
    """Read the losses of the steps."""
    found = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in found if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("keys", [(), ("lora.init=pissa",)], ids=["lora", "pissa"])
def test_fifty_steps_of_the_command(keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept log-probabilities give the live reference's losses; behind them it is the base that a process opens anew."""
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(RECIPE)
    made: list[Reference] = []

    def remember(*given: Any) -> Reference | None:
        made.extend(filter(None, [make_reference(*given)]))
        return made[-1] if made else None

    monkeypatch.setattr(start, "make_reference", remember)
    sets = [part for key in keys for part in ("--set", key)]
    root = str(Path(__file__).parents[2])
    fresh = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{FRESH}", "my.toml"]
    base = np.array(json.loads(subprocess.run(fresh, capture_output=True, text=True, check=True).stdout))

    assert main(["my.toml", *sets]) == 0
    assert main(["my.toml", *sets, "--set", "preference.precompute=true", "--set", "output.path=kept"]) == 0

    live, kept = (read_losses(tmp_path / name) for name in ("live", "kept"))
    assert len(live) == len(kept) == 50
    assert live[-1] < 0.1 < live[0]
    np.testing.assert_allclose(kept, live, rtol=0, atol=1e-6)
    (reference,) = made
    backbone, batch = reference.backbone, make_batch(read_recipe("my.toml"))
    trained = read_arrays(tmp_path / "live" / "adapters.safetensors")
    with bound_params(backbone.module, trained), backbone.overrides():
        inputs = Inputs(batch.tokens, *backbone.embed(batch))
        columns = mx.compile(lambda *given: reference.completed(*given)[1].columns)(inputs, batch.targets)
        found = mx.stack([columns[REFERENCE], columns[REFERENCE_REST]])
        policy = make_reference_step(backbone)(TrainState(trained, {}, mx.array(50)), batch)
    found, base, policy = (np.asarray(sums).astype(np.float64).sum(axis=0)[:12] for sums in (found, base, policy))
    np.testing.assert_allclose(found, base, rtol=0, atol=1e-6)
    assert np.abs(policy - found).min() > 0.1
