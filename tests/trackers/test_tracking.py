"""A run's events become a tracker's calls."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.run_events import FINISHED, STARTED
from vlora import events
from vlora.recipe.parse import parse_recipe
from vlora.recipe.schema import Recipe
from vlora.trackers.tracker import Answers, Ending, Tracked, TrackedRun
from vlora.trackers.tracking import Tracking


@attrs.define
class Notes:
    """A tracker that notes what it is told."""

    key: str = "key-1"
    where: str = "somewhere"
    runs: list[TrackedRun] = attrs.field(factory=list)
    logged: list[tuple[int, dict[str, float]]] = attrs.field(factory=list)
    endings: list[Ending] = attrs.field(factory=list)
    answers: list[tuple[int, Answers]] = attrs.field(factory=list)

    def start(self, run: TrackedRun) -> Tracked:
        """Note a run."""
        self.runs.append(run)
        return Tracked(run.key or self.key, self.where)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Note numbers."""
        self.logged.append((step, dict(numbers)))

    def show_answers(self, answers: Answers, step: int) -> None:
        """Note answers."""
        self.answers.append((step, answers))

    def end(self, ending: Ending) -> None:
        """Note the end."""
        self.endings.append(ending)


def make_recipe(folder: Path) -> Recipe:
    """Make a recipe that writes into a folder."""
    return parse_recipe(
        f'[data]\npath = "https://user:secret@example.org/rows.jsonl"\n[train]\niters = 7\n[output]\n'
        f'path = "{folder / "out" / "first"}"\ntrackers = ["wandb"]\nproject = "receipts"'
    )


def started(first_step: int = 0) -> events.Started:
    """Make the event of a run's start."""
    return attrs.evolve(STARTED, n_steps=7, first_step=first_step)


def finished(step: int, *, stopped_early: bool = False) -> events.Finished:
    """Make the event of a run's end."""
    return attrs.evolve(FINISHED, step=step, n_steps=7, stopped_early=stopped_early)


def report(**metrics: Any) -> events.Reported:
    """Make the event of a line."""
    return events.Reported(metrics={"unix_time": 1.0, **metrics})


def answered(when: str, total: int) -> list[events.Generated]:
    """Make the events of a round."""
    return [
        events.Generated(
            when=when,
            done=number,
            total=total,
            accuracy=0.5,
            expected=f"a{number}" * 400,
            found="https://user:secret@example.org/",
            row=f"rows.jsonl:{number}",
        )
        for number in range(1, total + 1)
    ]


def test_answers_follow_the_numbers_of_their_round(tmp_path: Path) -> None:
    """The first of each round, shortened and without secrets; what is left off comes with the end."""
    notes = Notes()
    with Tracking(make_recipe(tmp_path), "wandb", lambda: notes) as take:
        take(started())
        for event in answered("before", 30):
            take(event)
        take(report(step=0, exact_match=0.5))
        take(report(step=5, loss=1.5))
        for event in answered("after", 2):
            take(event)
        take(finished(7))

    (first_step, first), (last_step, last) = notes.answers
    assert (first_step, first.when, first.n_answers, len(first.rows)) == (0, "before", 30, 20)
    assert (last_step, last.when, last.n_answers, len(last.rows)) == (7, "after", 2, 2)
    row, expected, answer = first.rows[0]
    assert row == "rows.jsonl:1"
    assert (expected[:4], len(expected)) == ("a1a1", 503)
    assert "secret" not in answer


def test_answers_that_fail_end_no_numbers(tmp_path: Path) -> None:
    """A tracker that cannot take texts says so once, and goes on with numbers."""

    class Wordless(Notes):
        def show_answers(self, answers: Answers, step: int) -> None:
            msg = f"no tables here ({answers.when}, {step})"
            raise TypeError(msg)

    notes, said = Wordless(), list[str]()
    with Tracking(make_recipe(tmp_path), "wandb", lambda: notes, said.append) as take:
        take(started())
        for round_ in ("before", "during"):
            for event in answered(round_, 2):
                take(event)
            take(report(step=5, loss=1.5))
        take(finished(7))

    assert [step for step, _ in notes.logged] == [5, 5]
    assert [line for line in said if "answers" in line] == [
        "wandb: answers are left out (TypeError: no tables here (before, 5))"
    ]
    assert notes.endings == ["finished"]


def test_a_run(tmp_path: Path) -> None:
    """It begins with the recipe, numbers follow with their steps, and it ends."""
    notes, said = Notes(), list[str]()

    with Tracking(make_recipe(tmp_path), "wandb", lambda: notes, said.append) as take:
        take(started())
        take(report(step=0, device="cpu", device_name="a chip", device_memory_gb=3.0))
        take(report(step=5, loss=1.5, n_traces=2, first_step_unix_time=3.0, cut_rows="r:1", ok=True, bad=float("nan")))
        take(report(step=7, valid_loss=1.25))
        take(finished(7))

    [run] = notes.runs
    assert (run.name, run.project, run.folder) == ("first", "receipts", tmp_path / "out" / "first")
    assert run.values["train.iters"] == 7
    assert run.values["optim.learning_rate"] == 2e-5
    assert run.values["run.device"] == "a chip"
    assert "secret" not in run.values["data.path"] + run.recipe
    assert (run.first_step, run.key) == (0, None)
    assert notes.logged == [(5, {"loss": 1.5, "n_traces": 2.0}), (7, {"valid_loss": 1.25})]
    assert notes.endings == ["finished"]
    assert said == ["wandb: somewhere"]


def test_where_a_run_is_seen_is_told_without_secrets(tmp_path: Path) -> None:
    """A server's address may have a password."""
    said = list[str]()

    with Tracking(
        make_recipe(tmp_path), "mlflow", lambda: Notes(where="run 7 of https://user:secret@example.org"), said.append
    ) as take:
        take(started())

    assert said == ["mlflow: run 7 of https://***@example.org"]


@pytest.mark.parametrize(("first_step", "key"), [(0, None), (3, "key-1")])
def test_a_resumed_run_is_given_its_key(first_step: int, key: str | None, tmp_path: Path) -> None:
    """One that begins anew in the same folder is another run; keys of other trackers stay."""
    recipe = make_recipe(tmp_path)
    for name in ("trackio", "wandb"):
        with Tracking(recipe, name, Notes) as take:
            take(started())
            take(finished(3))
    notes = Notes(key="key-2")

    with Tracking(recipe, "wandb", lambda: notes) as take:
        take(started(first_step))

    keys = json.loads((tmp_path / "out" / "first" / "training" / "trackers.json").read_text())
    assert notes.runs[0].key == key
    assert notes.runs[0].first_step == first_step
    assert keys == {"trackio": "key-1", "wandb": key or "key-2"}


@pytest.mark.parametrize("text", ["", "[]", "{", '"a"'])
def test_a_file_of_keys_that_is_none_is_as_none(text: str, tmp_path: Path) -> None:
    """A run goes on all the same, with a new run of the tracker's."""
    file = tmp_path / "out" / "first" / "training" / "trackers.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    notes = Notes()

    with Tracking(make_recipe(tmp_path), "wandb", lambda: notes) as take:
        take(started(3))

    assert notes.runs[0].key is None
    assert json.loads(file.read_text()) == {"wandb": "key-1"}


def do_nothing(take: Tracking) -> None:
    """Fail before the run has begun."""
    del take
    msg = "no model"
    raise RuntimeError(msg)


def do_a_step(take: Tracking) -> None:
    """Fail in the middle of it."""
    take(started())
    do_nothing(take)


def do_half(take: Tracking) -> None:
    """Stop in order."""
    take(started())
    take(finished(3))


def do_enough(take: Tracking) -> None:
    """Stop early, where nothing gets better any more."""
    take(started())
    take(finished(3, stopped_early=True))


def do_all_but_answers(take: Tracking) -> None:
    """Stop in order behind the last step."""
    take(started())
    take(attrs.evolve(finished(7), left_off=("answers after training",)))


@pytest.mark.parametrize(
    ("act", "endings"),
    [
        (do_nothing, ["failed"]),
        (do_a_step, ["failed"]),
        (do_half, ["stopped"]),
        (do_all_but_answers, ["stopped"]),
        (do_enough, ["finished"]),
    ],
)
def test_endings(act: Callable[[Tracking], None], endings: list[str], tmp_path: Path) -> None:
    """A tracker is ended once, and knows how."""
    notes = Notes()

    def run() -> None:
        with Tracking(make_recipe(tmp_path), "wandb", lambda: notes) as take:
            act(take)

    if act in (do_half, do_all_but_answers, do_enough):
        run()
    else:
        with pytest.raises(RuntimeError):
            run()

    assert notes.endings == endings


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    """The run begins with its first numbers."""
    notes = Notes()

    with Tracking(make_recipe(tmp_path), "wandb", lambda: notes, first_step=2) as tracking:
        tracking.log({"loss": 1}, 3)
        tracking.log({"loss": 0.5}, 4)

    assert [run.first_step for run in notes.runs] == [2]
    assert notes.logged == [(3, {"loss": 1.0}), (4, {"loss": 0.5})]
    assert notes.endings == ["finished"]
