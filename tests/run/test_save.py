"""Runs that fail or are stopped, at any moment: what was learned is saved, and goes on as if nothing had happened."""

import contextlib
import errno
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.arrays import load_arrays
from tests.run.test_bad_rows import write_rows
from tests.runs import losses, make_recipe
from tests.training import picture
from vlora import Recipe, fit
from vlora.build import make_recipe_step
from vlora.data.loader import DataLoader
from vlora.errors import NonFiniteError, OutOfMemoryError, SampleError
from vlora.estimate import shortage
from vlora.evaluation.prediction import read_predictions
from vlora.events import Event, Finished, Reported, Saved, StepReport
from vlora.output import checkpoint as checkpoints
from vlora.output.atomic import append_text
from vlora.output.checkpoint import load_metadata
from vlora.output.metrics_log import Mark
from vlora.output.paths import METRICS_NAME, PREDICTIONS_NAME, STATE_NAME
from vlora.run import save, start

CheckpointFactory = Callable[[str], Path]
VOLATILE = {"tokens_per_s", "wait_s", "n_traces", "trace_s", "seconds", "unix_time", "first_step_unix_time"}
FAILED_AT = 4


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read what a run has written, without what it computes on, times, memory and where features came from."""
    lines = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    return [
        {
            name: value
            for name, value in line.items()
            if name not in VOLATILE and not name.endswith("_memory_gb") and not name.startswith("features_")
        }
        for line in lines
        if "device" not in line
    ]


def weights_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Read all adapters in a folder."""
    return {
        file.name: {name: value.tolist() for name, value in load_arrays(file).items()}
        for file in sorted(folder.glob("*.safetensors"))
    }


def interrupt() -> None:
    """Do what Ctrl-C does where nobody hears it."""
    raise KeyboardInterrupt


def lack_memory() -> None:
    """Fail as MLX does."""
    msg = "[malloc] Unable to allocate 12 bytes."
    raise RuntimeError(msg)


def fail() -> None:
    """Fail as nobody has foreseen."""
    msg = "what is this?"
    raise LookupError(msg)


class FailingStep:
    """A step that fails before or after it has been taken."""

    def __init__(self, step: Any, raising: Callable[[], None], *, is_late: bool) -> None:
        self.step, self.raising, self.is_late, self.n_calls = step, raising, is_late, 0

    def __getattr__(self, name: str) -> Any:
        """Be the step in all else."""
        return getattr(self.step, name)

    def accumulate(self, *given: Any) -> Any:
        """Begin a step, or fail."""
        self.n_calls += 1
        if self.n_calls == FAILED_AT and not self.is_late:
            self.raising()
        return self.step.accumulate(*given)

    def update(self, *given: Any) -> Any:
        """Take a step, and fail behind it."""
        taken = self.step.update(*given)
        if int(taken[0].step) == FAILED_AT:
            self.raising()
        return taken


def short_recipe(checkpoint: CheckpointFactory, folder: Path, name: str, **options: Any) -> Recipe:
    """Make the recipe of six steps with dropout that saves and reports at their end."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_rows(folder, "rows")
    keys = {"lora__dropout": 0.2, "train__steps_per_save": 1000, "train__steps_per_report": 1000} | options
    return make_recipe(checkpoint("qwen3_vl"), rows, folder / name, **keys)


def collect(events: Iterator[Event]) -> tuple[list[Event], BaseException | None]:
    """Take a run's events up to its end, and what ended it."""
    found: list[Event] = []
    try:
        found.extend(events)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what it is, is tested
        return found, error
    return found, None


@pytest.fixture(scope="module")
def plain(checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Carry out the run of six steps; give its folder and its losses."""
    folder = tmp_path_factory.mktemp("plain")
    return folder / "out", losses(list(fit(short_recipe(checkpoint, folder, "out"))))


@pytest.mark.parametrize("looks_ahead", [False, True])
@pytest.mark.parametrize(
    ("raising", "is_late", "kind"),
    [
        (interrupt, False, KeyboardInterrupt),
        (interrupt, True, KeyboardInterrupt),
        (lack_memory, False, OutOfMemoryError),
        (fail, True, LookupError),
    ],
)
def test_the_steps_before_a_failure_are_kept(
    raising: Callable[[], None],
    is_late: bool,
    kind: type[BaseException],
    looks_ahead: bool,
    plain: tuple[Path, list[float]],
    checkpoint: CheckpointFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever step 4 fails with, the three before it are saved, and the run goes on to the bit."""
    folder, straight = plain
    recipe, make = short_recipe(checkpoint, tmp_path, "out"), make_recipe_step
    monkeypatch.setattr(shortage, "advise", lambda _, __, saved: f"what was saved after step {saved} is whole")
    with monkeypatch.context() as patched:
        patched.setattr(start, "make_recipe_step", lambda *a, **k: FailingStep(make(*a, **k), raising, is_late=is_late))
        patched.setattr(start, "device_kind", lambda: "cuda" if looks_ahead else "cpu")
        events, error = collect(fit(recipe))
    assert isinstance(error, kind)
    assert [event.step for event in events if isinstance(event, Saved)] == [FAILED_AT - 1]
    assert losses(events) == straight[: FAILED_AT - 1]
    said = " ".join([str(error), *getattr(error, "__notes__", [])])
    assert "3 steps before it are saved" in said or "saved after step 3 is whole" in said

    again, error = collect(fit(recipe, resume=True))
    assert error is None
    assert losses(events) + losses(again) == straight
    assert weights_of(tmp_path / "out") == weights_of(folder)
    assert read_metrics(tmp_path / "out") == read_metrics(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_fail_as_nobody_has_foreseen(
    workers: int, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What encoding raises in a thread comes in its turn, behind the steps before it, which are saved."""
    numbers = itertools.count(1)
    encode = DataLoader._encode

    def fail_later(*given: Any) -> Any:
        if next(numbers) > 6:
            fail()
        return encode(*given)

    monkeypatch.setattr(DataLoader, "_encode", fail_later)
    events, error = collect(fit(short_recipe(checkpoint, tmp_path, "out", data__workers=workers)))
    assert isinstance(error, LookupError)
    assert error.__notes__ == ["the 3 steps before it are saved, and --resume goes on from there"]
    assert [event.step for event in events if isinstance(event, Saved)] == [3]


def test_a_disk_without_room_for_metrics(
    plain: tuple[Path, list[float]], checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line is left and the steps are saved; the run goes on, and every step is in one line."""
    recipe = short_recipe(checkpoint, tmp_path, "out", train__steps_per_report=2)
    is_full = itertools.chain([False, False], itertools.repeat(True))

    def append(path: Path, text: str) -> None:
        if path.name == METRICS_NAME and next(is_full):
            append_text(path, text[:20])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append_text(path, text)

    with monkeypatch.context() as patched:
        patched.setattr("vlora.output.atomic.append_text", append)
        events, error = collect(fit(recipe))
    assert isinstance(error, OSError)
    # One more was begun when the report was due.
    assert error.__notes__ == ["the 5 steps before it are saved, and --resume goes on from there"]
    assert [event.step for event in events if isinstance(event, Saved)] == [5]

    assert collect(fit(recipe, resume=True))[1] is None
    written, straight = read_metrics(tmp_path / "out"), read_metrics(plain[0])
    assert [line["step"] for line in written] == [2, 6]
    assert written[-1]["running_loss"] == straight[-1]["running_loss"]
    assert sum(line["supervised_tokens"] for line in written) == straight[-1]["supervised_tokens"]
    assert weights_of(tmp_path / "out") == weights_of(plain[0])


def test_what_cannot_be_saved_any_more(
    checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a loss that is not finite the state before is gone; the last one saved stays, and is named."""
    recipe = short_recipe(
        checkpoint, tmp_path, "out", optim__learning_rate=1e30, optim__warmup_steps=0, train__steps_per_save=1
    )
    events, error = collect(fit(recipe))
    assert isinstance(error, NonFiniteError)
    last = [event.step for event in events if isinstance(event, Saved)][-1]
    assert str(error).endswith(
        (
            f"; --resume goes on from step {last}, which was saved last",
            f"; {save._describe_saved(last, last)}",
        )
    )

    monkeypatch.setattr(checkpoints, "save_state", lambda *_: lack_memory())
    monkeypatch.setattr(DataLoader, "drain_skipped", lambda reader: fail() if reader.skipped else [])
    file = tmp_path / "rows-1.png"
    file.unlink()
    options = {"data__on_bad_row": "skip", "data__shuffle": False, "train__batch_size": 1}
    events, error = collect(fit(short_recipe(checkpoint, tmp_path, "unsaved", **options)))
    assert isinstance(error, LookupError)
    assert error.__notes__ == ["no step has been saved"]
    assert not [event for event in events if isinstance(event, Saved)]


@pytest.fixture(scope="module")
def uninterrupted(checkpoint: CheckpointFactory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Carry out a run that has something due behind every step; give its folder and its losses."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder / "out", losses(list(fit(busy_recipe(checkpoint, folder))))


def busy_recipe(checkpoint: CheckpointFactory, folder: Path, **options: Any) -> Recipe:
    """Make the recipe of a run that has something due behind every step."""
    keys = {
        "data__valid_path": str(write_rows(folder, "valid")),
        "train__steps_per_report": 2,
        "train__steps_per_eval": 3,
        "train__steps_per_save": 2,
        "eval__answer_rows": 2,
        "eval__answer_every": 2,
        "eval__max_new_tokens": 1,
        "eval__temperature": 1.0,
        "eval__metrics": ["exact_match", "token_f1"],
    }
    return short_recipe(checkpoint, folder, "out", **keys, **options)


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_run_that_is_stopped_leaves_no_trace(
    stop: int, uninterrupted: tuple[Path, list[float]], checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """Reports, running loss, validations and numbered checkpoints are those of a run that never stopped."""
    recipe = busy_recipe(checkpoint, tmp_path)
    n_asked = itertools.count(1)
    first = list(fit(recipe, should_stop=lambda: next(n_asked) >= stop))
    again = list(fit(recipe, resume=True))
    assert 0 < len(losses(first)) <= stop
    assert losses(first) + losses(again) == uninterrupted[1]
    assert read_metrics(tmp_path / "out") == read_metrics(uninterrupted[0])
    assert weights_of(tmp_path / "out") == weights_of(uninterrupted[0])
    assert read_answers(tmp_path / "out") == read_answers(uninterrupted[0])


def read_answers(folder: Path) -> list[tuple[int, str, str]]:
    """Give the lines of predictions.jsonl: step, row and answer."""
    return [(line.step, line.row, line.answer) for line, _ in read_predictions(folder / PREDICTIONS_NAME)]


def numbered_steps(folder: Path) -> list[int]:
    """List the steps of the numbered checkpoints in a folder."""
    return sorted(int(found[1]) for path in folder.iterdir() if (found := re.search(r"(\d{7})", path.name)))


@pytest.mark.parametrize(("is_full", "stop"), [(False, None), (False, 3), (True, 4)])
def test_only_the_newest_checkpoints_stay(
    stop: int | None, is_full: bool, checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """With output.keep_last, and whether or not the run stops between; states stay, and what is not its own."""
    keys = {"train__steps_per_save": 1, "model__full_finetune": is_full}
    recipe = short_recipe(checkpoint, tmp_path, "out", output__keep_last=2, **keys)
    folder = tmp_path if is_full else tmp_path / "out"
    folder.mkdir(exist_ok=True)
    (folder / "0000009_own.safetensors").touch()
    n_asked = itertools.count(1)
    list(fit(recipe, should_stop=lambda: stop is not None and next(n_asked) >= stop))
    if stop is not None:
        list(fit(recipe, resume=True))

    assert numbered_steps(folder) == [4, 5, 9]
    assert {"state.safetensors", "state-before.safetensors"} <= {
        file.name for file in (tmp_path / "out/training").iterdir()
    }
    # All of them are kept from now on, and those that are gone are not missed.
    list(fit(short_recipe(checkpoint, tmp_path, "out", train__iters=8, **keys), resume=True))
    assert numbered_steps(folder) == [4, 5, 6, 7, 9]


def test_a_validation_that_was_left_is_followed_by_no_step(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A run that is asked to end during a validation saves the step before it, and takes no other."""
    valid = write_rows(tmp_path, "valid")
    recipe = short_recipe(checkpoint, tmp_path, "out", data__valid_path=str(valid), train__steps_per_eval=3)
    events: list[Event] = []
    # The last of them is over, the validation has not begun.
    events.extend(fit(recipe, should_stop=lambda: [e.step for e in events if isinstance(e, StepReport)][-1:] == [3]))
    assert len(losses(events)) == 3
    assert [event.step for event in events if isinstance(event, Finished)] == [3]
    metrics = [event.metrics for event in events if isinstance(event, Reported)]
    assert [line["step"] for line in metrics if "valid_loss" in line] == [0]
    assert Mark.loads(str(load_metadata(tmp_path / "out" / STATE_NAME).metrics)).validated == 0


def test_a_run_that_was_killed_writes_no_line_twice(
    uninterrupted: tuple[Path, list[float]], checkpoint: CheckpointFactory, tmp_path: Path
) -> None:
    """What was written behind the saved state is written anew; also what a run had answered before it ended."""
    out, straight = tmp_path / "out", read_metrics(uninterrupted[0])
    recipe = busy_recipe(checkpoint, tmp_path)
    run = fit(recipe)
    for event in run:
        if isinstance(event, Reported) and event.metrics["step"] == 3:
            break
    run.close()
    with (out / PREDICTIONS_NAME).open("a") as file:
        file.write('{"row": "of a step that was lost", "expe')
    list(fit(recipe, resume=True))
    assert read_metrics(out) == straight
    assert read_answers(out) == read_answers(uninterrupted[0])
    # The answers are there; the process was ended before it said so.
    list(fit(recipe, resume=True))
    assert read_metrics(out) == straight

    list(fit(busy_recipe(checkpoint, tmp_path, train__iters=7), resume=True))
    assert read_metrics(out)[: len(straight)] == straight
    assert [line["step"] for line in read_metrics(out) if "accuracy_after" in line] == [6, 7]
    assert read_answers(out)[:-2] == read_answers(uninterrupted[0])
    assert [step for step, _, _ in read_answers(out)] == [0, 0, 2, 2, 4, 4, 6, 6, 7, 7]


def test_a_bad_row_to_validate_on_loses_nothing(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """A validation that fails ends the run behind the step that it was of, which is saved."""
    valid = write_rows(tmp_path, "valid")
    recipe = short_recipe(checkpoint, tmp_path, "out", data__valid_path=str(valid), train__steps_per_eval=3)
    events: list[Event] = []
    run = fit(recipe)
    for event in run:
        events.append(event)
        if losses(events)[1:]:
            break
    (tmp_path / "valid-1.png").unlink()
    rest, error = collect(run)
    assert isinstance(error, SampleError)
    assert str(error).startswith("valid.jsonl train row 1")
    assert str(error).endswith("the 3 steps before it are saved, and --resume goes on from there")
    assert [event.step for event in rest if isinstance(event, Saved)] == [3]


@pytest.mark.parametrize("killed_after", [3, 5])
def test_a_run_that_is_killed_finds_what_it_had_saved_with_its_state(
    killed_after: int, checkpoint: CheckpointFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that steps have made are on the disk when a state is saved; those behind it may be lost with the run."""
    for number in range(8):
        picture(32, 32, number).save(tmp_path / f"{number}.png")
    lines = [{"image": f"{n}.png", "question": f"What is {n}?", "answer": f"it is {n}"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {"train__batch_size": 3, "train__iters": 8, "train__steps_per_save": 2}
    straight, recipe = (
        short_recipe(checkpoint, tmp_path, name, **options, features__path=str(tmp_path / f"kept-{name}"))
        for name in ("straight", "out")
    )
    expected = losses(list(fit(straight)))
    with monkeypatch.context() as patched:
        # As far as a test can: nothing is written when the process ends.
        patched.setattr(start, "_flushed", lambda _: contextlib.nullcontext())
        run = fit(recipe)
        for event in run:
            if isinstance(event, StepReport) and event.step == killed_after:
                break
        run.close()
    again = losses(list(fit(recipe, resume=True)))
    assert again == expected[killed_after // 2 * 2 :]
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "straight")


def test_packed_rows_before_a_bad_one_are_kept(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Rows are read far ahead there; the steps that were taken by then go on without the row to the bit."""
    lines = [{"question": f"What is {n}? bla bla", "answer": f"it is {n}"} for n in range(80)]
    lines[70]["image"] = "none.png"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {
        "train__batching": "packed",
        "train__batch_size": 1,
        "train__pack_length": 160,
        "data__max_seq_length": 160,
        "train__epochs": 1,
    }
    recipe, skipping, whole = (
        short_recipe(checkpoint, tmp_path, name, **options, data__shuffle=False, data__on_bad_row=on_bad_row)
        for name, on_bad_row in (("out", "raise"), ("out", "skip"), ("whole", "skip"))
    )
    events, error = collect(fit(recipe))
    n_steps = len(losses(events))
    assert isinstance(error, SampleError)
    assert str(error).endswith(f"the {n_steps} steps before it are saved, and --resume goes on from there")
    assert n_steps > 0
    assert losses(events) + losses(list(fit(skipping, resume=True))) == losses(list(fit(whole)))


def test_one_step_is_one() -> None:
    """What is saved is said of one step as of several."""
    assert save._describe_saved(1, 1) == "the step before it is saved, and --resume goes on from there"
    assert save._describe_saved(2, 2) == "the 2 steps before it are saved, and --resume goes on from there"
