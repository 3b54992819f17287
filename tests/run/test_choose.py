"""The best state kept and runs that stop early, whether or not they are stopped and gone on with between."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import pytest
from mlx_vlm import load as load_with_mlx_vlm

from tests.arrays import load_arrays
from tests.run.test_bad_rows import write_rows
from tests.run.test_save import read_metrics, short_recipe, weights_of
from tests.runs import run
from vlora import Recipe, fit
from vlora.cli.screen import Screen
from vlora.cli.train import train
from vlora.errors import CheckpointError, RecipeError
from vlora.evaluation.metrics import METRICS, Scores
from vlora.evaluation.prediction import Prediction
from vlora.events import Event, Finished, Generated, Saved, StepReport, StoppedEarly, Warned
from vlora.output.checkpoint import load_metadata
from vlora.output.paths import STATE_NAME
from vlora.run import answers, start
from vlora.run.evaluation import Chosen, Opened, evaluate_answers
from vlora.run.validator import Validated, Validator
from vlora.scores import Score
from vlora.types import TrainState

CheckpointFactory = Callable[[str], Path]

LOSSES = {0: 3.0, 2: 2.0, 4: 1.0, 6: 1.5, 8: 1.2, 10: 0.5}
"""What validations find: the best of those before the run stops is behind step 4."""


@pytest.fixture(scope="module", autouse=True)
def found_losses() -> Iterator[None]:
    """Let validations find what `LOSSES` says; they are made all the same."""
    measure = Validator.measure

    def measured(self: Validator, state: TrainState, *rest: Any) -> Validated | None:
        found = measure(self, state, *rest)
        return None if found is None else attrs.evolve(found, loss=LOSSES[int(state.step)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validator, "measure", measured)
        yield


def choosing_recipe(checkpoint: CheckpointFactory, folder: Path, **options: Any) -> Recipe:
    """Make the recipe of a run that keeps the best state and stops early."""
    keys = {
        "data__valid_path": str(write_rows(folder, "valid")),
        "output__keep_best": "valid_loss",
        "output__keep_last": 1,
        "train__early_stopping_patience": 2,
        "train__iters": 10,
        "train__steps_per_eval": 2,
        "train__steps_per_report": 3,
        "train__steps_per_save": 3,
        "eval__answer_rows": 1,
        "eval__max_new_tokens": 1,
    }
    return short_recipe(checkpoint, folder, "out", **{**keys, **options})


def outcome(out: Path) -> dict[str, Any]:
    """Read what a run has left, but for times."""
    state = load_metadata(out / STATE_NAME)
    return {
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors")),
        "weights": weights_of(out),
        "best": weights_of(out / "best"),
        "note": json.loads((out / "best" / "best.json").read_text()),
        "metrics": read_metrics(out),
        "state": (state.numbered, state.choice, state.sums),
    }


def run_until(recipe: Recipe, step: int) -> list[Event]:
    """Carry a recipe out up to a step, or the one behind it."""
    events: list[Event] = []
    events.extend(fit(recipe, should_stop=lambda: any(isinstance(e, StepReport) and e.step >= step for e in events)))
    return events


def last(events: list[Event]) -> Finished:
    """Give a run's last event."""
    assert isinstance(events[-1], Finished)
    return events[-1]


@pytest.fixture(scope="module")
def straight(checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Carry out the run that nobody stops; give its folder and its events."""
    folder = tmp_path_factory.mktemp("straight")
    return folder / "out", run(choosing_recipe(checkpoint, folder))


def test_a_run_stops_early(straight: tuple[Path, list[Event]]) -> None:
    """Behind the second validation that was no better; it is over, answers, and names its best state."""
    out, events = straight
    end = last(events)

    assert (end.step, end.n_steps, end.is_over) == (8, 10, True)
    assert end.best is not None
    assert (end.best.step, end.best.value, end.best.path) == (4, 1.0, out / "best")
    assert [event.step for event in events if isinstance(event, Saved) and event.best] == [2, 4]
    assert [(event.step, event.n_stale) for event in events if isinstance(event, StoppedEarly)] == [(8, 2)]
    assert [event.when for event in events if isinstance(event, Generated)] == ["before", "after"]
    assert [path.name for path in sorted(out.glob("0*"))] == ["0000006_adapters.safetensors"]
    assert json.loads((out / "best" / "best.json").read_text()) == {"step": 4, "valid_loss": 1.0}


@pytest.mark.parametrize(
    "stop", [stop if stop in (2, 5, 8) else pytest.param(stop, marks=pytest.mark.slow) for stop in range(1, 9)]
)
def test_stopping_between_changes_nothing(
    stop: int, straight: tuple[Path, list[Event]], checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """The same best state, the same last step, the same files and metrics."""
    recipe = choosing_recipe(checkpoint, tmp_path)
    n_asked = itertools.count(1)
    first = run(recipe, should_stop=lambda: next(n_asked) >= stop)
    again = run(recipe, resume=True)

    assert last(first).step <= last(again).step == 8
    assert outcome(tmp_path / "out") == outcome(straight[0])


@pytest.mark.parametrize(
    ("name", "is_moment"),
    [
        ("best", lambda event: isinstance(event, Saved) and event.path.name == "best" and event.step == 4),
        ("numbered", lambda event: isinstance(event, Saved) and event.path.name.startswith("0000006")),
        ("early", lambda event: isinstance(event, StoppedEarly)),
    ],
)
def test_leaving_between_changes_nothing(
    name: str,
    is_moment: Callable[[Event], bool],
    straight: tuple[Path, list[Event]],
    checkpoint: CheckpointFactory,
    tmp_path: Path,
) -> None:
    """A run that is left where it has just written something, and whose best state is lost then, ends as it would."""
    recipe = choosing_recipe(checkpoint, tmp_path)
    taken = fit(recipe)
    assert any(map(is_moment, taken))
    taken.close()
    if name == "best":
        # The state knows that it is the best one.
        shutil.rmtree(tmp_path / "out" / "best")
    run(recipe, resume=True)

    assert outcome(tmp_path / "out") == outcome(straight[0])


def test_resuming_what_has_stopped_early(
    straight: tuple[Path, list[Event]],
    checkpoint: CheckpointFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is over, and says so; with more patience it goes on, and ends as a run that had it from the start."""
    recipe = choosing_recipe(checkpoint, tmp_path)
    run(recipe)
    assert train(recipe, Screen(width=300), resume=True) == 0
    printed = capsys.readouterr().out
    assert (
        "note stopped early after step 8 of 10: the last 2 validations were not better than valid loss 1.0000"
        in printed
    )
    assert "best: valid loss 1.0000 after step 4, kept in " in printed
    assert "ask the best one:" in printed
    assert outcome(tmp_path / "out") == outcome(straight[0])

    patient = {"train__early_stopping_patience": 3}
    more = run(choosing_recipe(checkpoint, tmp_path, **patient), resume=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    run(choosing_recipe(checkpoint, whole, **patient))
    assert [event.step for event in more if isinstance(event, StepReport)] == [9, 10]
    best = last(more).best
    assert best is not None
    assert (best.step, best.value) == (10, 0.5)
    ours, theirs = outcome(tmp_path / "out"), outcome(whole / "out")
    # The run that had stopped has answered.
    assert [line["step"] for line in ours["metrics"] if "accuracy_after" in line] == [8, 10]
    kept = [line for line in ours["metrics"] if line["step"] != 8 or "valid_loss" in line]
    assert {**ours, "metrics": kept} == theirs


def test_the_best_adapter_is_one(
    straight: tuple[Path, list[Event]], checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """mlx-vlm loads it, and training goes on from it; it holds the weights of its step."""
    out, _ = straight
    load_with_mlx_vlm(str(checkpoint("qwen3_vl")), adapter_path=str(out / "best"))
    keys = {"train__early_stopping_patience": None, "output__keep_last": None}
    run(choosing_recipe(checkpoint, tmp_path, train__steps_per_save=4, **keys))
    (best,), numbered = weights_of(out / "best").values(), weights_of(tmp_path / "out")

    assert best == numbered["0000004_adapters.safetensors"]
    run(short_recipe(checkpoint, tmp_path, "more", model__adapter_path=str(out / "best"), train__iters=1))


def test_the_best_adapter_has_the_tokens_that_were_added(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """It holds the tables of its step; mlx-vlm loads it on the model beside the run, eval and a further run do, too."""
    keys = {"train__early_stopping_patience": None, "output__keep_last": None, "train__iters": 6}
    added = {"model__add_tokens": ["<place_7>"], "train__steps_per_save": 4}
    recipe = choosing_recipe(checkpoint, tmp_path, **keys, **added)
    end, out = last(run(recipe)), tmp_path / "out"
    (best,), numbered = weights_of(out / "best").values(), weights_of(out)

    assert best == numbered["0000004_adapters.safetensors"] != numbered["adapters.safetensors"]
    assert json.loads((out / "best" / "adapter_config.json").read_text())["added_tokens"] == ["<place_7>"]
    assert end.model == str(out / "adapters-model")
    model, processor = load_with_mlx_vlm(end.model, adapter_path=str(out / "best"))
    (number,) = processor.tokenizer.encode("<place_7>", add_special_tokens=False)
    learned = load_arrays(out / "best" / "adapters.safetensors")["language_model.model.embed_tokens.weight"]
    assert mx.array_equal(model.language_model.model.embed_tokens.weight[number], learned[number])
    evaluating = evaluate_answers(recipe, Chosen(adapter=str(out / "best")))
    opened = next(event for event in evaluating if isinstance(event, Opened))
    assert opened.step == 4
    run(short_recipe(checkpoint, tmp_path, "more", model__adapter_path=str(out / "best"), train__iters=1))


def test_the_best_model_is_one(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """In full fine-tuning a whole model is kept, within the model's folder."""
    recipe = choosing_recipe(checkpoint, tmp_path, model__full_finetune=True)
    end = last(run(recipe))
    best = tmp_path / "out" / "best"

    assert end.best is not None
    assert (end.best.path, end.best.step) == (best, 4)
    load_with_mlx_vlm(str(best))
    assert weights_of(best) != weights_of(tmp_path / "out")
    assert [path.name for path in sorted(tmp_path.glob("out-*"))] == ["out-0000006"]


def test_a_best_state_that_is_lost(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """What is not there any more is told, and the best of the states that follow is kept."""
    recipe = choosing_recipe(checkpoint, tmp_path)
    run_until(recipe, 5)
    shutil.rmtree(tmp_path / "out" / "best")
    events = run(recipe, resume=True)
    best = last(events).best

    assert [event.message for event in events if isinstance(event, Warned) and "the best state so far" in event.message]
    assert best is not None
    assert (best.step, best.value, last(events).step) == (8, 1.2, 8)


def test_a_link_in_place_of_the_best_state(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Nothing is written where a link leads."""
    recipe = choosing_recipe(checkpoint, tmp_path)
    run_until(recipe, 5)
    (tmp_path / "out" / "best").rename(tmp_path / "other")
    (tmp_path / "out" / "best").symlink_to(tmp_path / "other")

    with pytest.raises(CheckpointError, match="best: is a link to"):
        run(recipe, resume=True)


def test_an_earlier_runs_best_state_is_set_aside(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """With all that it has written; a run that starts from it may not write over it."""
    recipe = choosing_recipe(checkpoint, tmp_path, train__iters=2)
    run(recipe)
    kept = weights_of(tmp_path / "out" / "best")
    run(short_recipe(checkpoint, tmp_path, "out", train__iters=1))

    assert weights_of(tmp_path / "out" / "earlier-1" / "best") == kept
    assert not (tmp_path / "out" / "best").exists()

    (tmp_path / "out" / "earlier-1" / "best").rename(tmp_path / "out" / "best")
    options = {"train__iters": 2, "model__adapter_path": str(tmp_path / "out" / "best" / "adapters.safetensors")}
    with pytest.raises(RecipeError, match=r"best', from which training starts, would be overwritten"):
        run(choosing_recipe(checkpoint, tmp_path, **options))
    run(choosing_recipe(checkpoint, tmp_path, **options, output__keep_best=None))
    assert weights_of(tmp_path / "out" / "best") == kept
    assert (tmp_path / "out" / "earlier-2" / "adapters.safetensors").is_file()


def test_without_a_best_state_kept_the_end_names_it(
    checkpoint: CheckpointFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would have kept it is said; of runs whose last state is the best nothing is."""
    options = {"output__keep_best": None, "train__early_stopping_patience": None}
    assert train(choosing_recipe(checkpoint, tmp_path, **options, train__iters=8), Screen(width=300)) == 0
    assert "best: valid loss 1.0000 after step 4; output.keep_best would have kept it\n" in capsys.readouterr().out
    assert train(choosing_recipe(checkpoint, tmp_path, **options, train__iters=4), Screen(width=300)) == 0
    assert "best: " not in capsys.readouterr().out
    assert not (tmp_path / "out" / "best").exists()


SCORES = {0: 0.0, 2: 0.1, 4: 0.5, 6: 0.3, 8: 0.4, 10: 0.9}
"""What rounds of answers come to: those after training are the best."""


@pytest.mark.parametrize("is_higher_better", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_best_answers(
    is_higher_better: bool, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric chooses, by its own direction, the last round of answers among them; a run that goes on ends as one."""

    def scored(_: Any, predictions: list[Prediction]) -> Scores:
        value = SCORES[predictions[0].step]
        return Scores(rows=[{}] * len(predictions), summary={"cer": Score(mean=value, low=None, high=None, n=1)})

    metric = attrs.evolve(METRICS["cer"], is_higher_better=is_higher_better)
    monkeypatch.setattr(answers, "score", scored)
    monkeypatch.setattr(start, "find_metrics", lambda _: (metric,))
    options = {
        "output__keep_best": "cer",
        "eval__metrics": ["cer"],
        "eval__answer_every": 2,
        "train__early_stopping_patience": None,
        "train__steps_per_eval": 100,
    }
    outcomes, chosen = [], 10 if is_higher_better else 2
    for name, stop in (("straight", None), ("again", 5)):
        folder = tmp_path / name
        folder.mkdir()
        recipe = choosing_recipe(checkpoint, folder, **options)
        if stop is not None:
            run_until(recipe, stop)
        best = last(run(recipe, resume=stop is not None)).best
        assert best is not None
        assert (best.judged_by, best.step) == ("eval_cer", chosen)
        outcomes.append(outcome(folder / "out"))
        # What is over answers once more, and chooses as it did.
        run(recipe, resume=True)
        outcomes.append(outcome(folder / "out"))

    assert all(found == outcomes[0] for found in outcomes)
    assert outcomes[0]["note"] == {"step": chosen, "eval_cer": SCORES[chosen]}
