"""Rounds of answers before, during and after training: scored, written, and without a trace in what is learned."""

import itertools
import json
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runs import losses, make_recipe, run
from vlora import events as kinds
from vlora import fit
from vlora.errors import AnswerError, RecipeError
from vlora.evaluation.prediction import Prediction, read_predictions
from vlora.events import Event, Finished, Generated, Reported, Scored, StepReport, Warned
from vlora.output.paths import PREDICTIONS_NAME
from vlora.recipe.schema import Recipe
from vlora.run import answers, start
from vlora.run.evaluation import Chosen, evaluate_answers

CheckpointFactory = Callable[[str], Path]


@pytest.fixture
def answering(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Make the recipe of a run whose rows are answered: `answering("out", eval__answer_every=2)`."""

    def make(output: str, **options: Any) -> Recipe:
        keys = {"data__valid_path": str(rows), "eval__answer_rows": 3, "eval__max_new_tokens": 2, **options}
        return make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / output, **keys)

    return make


def test_rounds_leave_no_trace_in_what_is_learned(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """With answers every second step, drawn ones too, losses and weights are to the bit those without answers."""
    plain = run(answering("plain", eval__answer_rows=0))
    asked = run(answering("asked", eval__answer_every=2, eval__temperature=0.7))
    weights = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in ("plain", "asked")]

    assert losses(asked) == losses(plain)
    assert weights[0] == weights[1]


def test_a_round_is_told_and_written(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """Events, metrics.jsonl and predictions.jsonl have the rounds before, during and after, each with its step."""
    recipe = answering("out", eval__answer_every=2, eval__metrics=["exact_match", "token_f1"])
    events = run(recipe)
    scored = [event for event in events if isinstance(event, Scored)]
    lines = [event.metrics for event in events if isinstance(event, Reported) and "eval_rows" in event.metrics]
    written = list(read_predictions(tmp_path / "out" / PREDICTIONS_NAME))

    expected = [("before", 0), ("during", 2), ("during", 4), ("after", 6)]
    assert [(event.when, event.step) for event in scored] == expected
    assert kinds.Scored is Scored
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    ends = ("", "_low", "_high")
    names = {f"eval_{name}{end}" for name in ("exact_match", "token_f1") for end in ends}
    assert set(lines[0]) == {"step", "eval_rows", "unix_time"} | names
    assert [prediction.step for prediction, _ in written] == [step for _, step in expected for _ in range(3)]
    first, scores = written[0]
    assert first.row == "rows.jsonl train row 0"
    assert first.expected == "it is 0"
    assert first.prompt.endswith("What is number 0?<|im_end|>\n<|im_start|>assistant\n")
    assert first.images == (str(tmp_path / "0.png"),)
    assert first.image_sizes == ((32, 32),)
    assert first.columns["question"] == "What is number 0?"
    assert first.convention == "qwen3"
    assert set(scores) == {"exact_match", "token_f1"}
    mean = sum(own["token_f1"] for _, own in written[-3:]) / 3
    assert scored[-1].scores["token_f1"].mean == pytest.approx(mean)


def test_accuracy_is_of_the_two_rounds_around_training(answering: Callable[..., Recipe]) -> None:
    """What is counted to the letter keeps its two names, and rounds between have metrics only."""
    events = run(answering("out", eval__answer_every=3))
    found = [event.metrics for event in events if isinstance(event, Reported)]
    accuracy = [{name for name in line if "accuracy" in name} for line in found]

    assert [names for names in accuracy if names] == [{"accuracy_before"}, {"accuracy_before", "accuracy_after"}]
    assert [event.when for event in events if isinstance(event, Generated)] == [
        when for when in ("before", "during", "after") for _ in range(3)
    ]


def test_a_round_that_was_left_is_answered_on_resuming(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run that is asked to end while rows are answered saves the step, and answers them again."""
    recipe = answering("out", eval__answer_every=2)
    events: list[Event] = []
    # The second step is over, and its round is next.
    events.extend(
        fit(recipe, should_stop=lambda: any(isinstance(event, StepReport) and event.step == 2 for event in events))
    )
    assert [event.step for event in events if isinstance(event, Finished)] == [2]
    assert [prediction.step for prediction, _ in read_predictions(tmp_path / "out" / PREDICTIONS_NAME)] == [0] * 3
    again = run(recipe, resume=True)

    assert [(event.when, event.step) for event in again if isinstance(event, Scored)] == [
        ("during", 2),
        ("during", 4),
        ("after", 6),
    ]


def test_a_metric_that_measures_no_row_is_told(answering: Callable[..., Recipe]) -> None:
    """Around training, and not in every round; the other metrics are there."""
    events = run(answering("out", eval__answer_every=2, eval__metrics=["box_iou", "exact_match"]))
    notes = [event.message for event in events if isinstance(event, Warned)]

    assert [note.partition(":")[0] for note in notes] == ["answers before training", "answers after training"]
    assert all("box_iou: no row has what this measures" in note for note in notes)
    assert all(set(event.scores) == {"exact_match"} for event in events if isinstance(event, Scored))


def test_a_metric_is_looked_for_before_anything_is_loaded(
    answering: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no metric has is an error of the recipe; no model was loaded for it."""
    monkeypatch.setattr(start, "load_rows", lambda _: pytest.fail("rows were opened"))
    with pytest.raises(RecipeError, match=r"eval\.metrics: found 'exakt'"):
        run(answering("out", eval__metrics=["exakt"]))


def test_a_metric_of_ones_own_that_fails_ends_no_run(
    answering: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a note; the answers are written without scores, and their accuracy is counted."""
    code = "def broken(predictions, references, rows):\n    raise KeyError('no such column')\n"
    (tmp_path / "own_of_tests.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    events = run(answering("out", eval__metrics=["own_of_tests:broken"], train__iters=1))
    notes = [event.message for event in events if isinstance(event, Warned)]

    assert sum("no such column" in note and "their metrics are left out" in note for note in notes) == 2
    written = list(read_predictions(tmp_path / "out" / PREDICTIONS_NAME))
    assert len(written) == 6
    assert not any(scores for _, scores in written)
    assert any("accuracy_after" in event.metrics for event in events if isinstance(event, Reported))


def test_rows_that_are_answered_together(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """One at a time or many: the answers are the same, in the order of the rows."""
    found: list[list[Prediction]] = []
    for size in (1, 2, 7):
        name = f"by{size}"
        run(answering(name, eval__batch_size=size, eval__answer_rows=-1, eval__temperature=1.0, train__iters=1))
        found.append([prediction for prediction, _ in read_predictions(tmp_path / name / PREDICTIONS_NAME)])

    assert found[0] == found[1] == found[2]
    assert [line.row for line in found[0][:7]] == [f"rows.jsonl train row {number}" for number in range(7)]


def test_questions_that_are_too_long_are_passed_over(
    answering: Callable[..., Recipe], tmp_path: Path, rows: Path
) -> None:
    """They end no run, and neither is memory asked for which the rows of training do not need."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines[1]["question"] = "word " * 5_000
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = run(answering("out", data__train_on_completions=False, data__on_long_row="cut", data__max_seq_length=64))
    skipped = [event.reason for event in events if isinstance(event, kinds.Skipped)]
    answered = [prediction.row for prediction, _ in read_predictions(tmp_path / "out" / PREDICTIONS_NAME)]

    assert len(skipped) == 2
    assert all("row 1: line 2 of rows.jsonl: its question of" in reason for reason in skipped)
    assert answered == [f"rows.jsonl train row {number}" for number in (0, 2)] * 2


def test_rows_with_unwanted_answers_are_not_asked(answering: Callable[..., Recipe], tmp_path: Path, rows: Path) -> None:
    """To give the unwanted answer is not right: such rows are left out of rounds and evaluations."""
    lines = [json.loads(line) | {"label": number != 1} for number, line in enumerate(rows.read_text().splitlines())]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = answering("out", train__objective="kto", optim__learning_rate=1e-5, eval__metrics=["exact_match"])
    events = run(recipe)
    answered = [prediction.row for prediction, _ in read_predictions(tmp_path / "out" / PREDICTIONS_NAME)]
    evaluating = evaluate_answers(recipe, Chosen(is_base=True))
    told = [event for event in evaluating if isinstance(event, Warned | Prediction)]
    said = "1 row was not asked: what is marked as unwanted is no answer to expect"

    assert answered == [f"rows.jsonl train row {number}" for number in (0, 2)] * 2
    assert [event.message for event in events if isinstance(event, Warned) and "unwanted" in event.message] == [
        f"answers {when} training: {said}" for when in ("before", "after")
    ]
    assert [event.accuracy for event in events if isinstance(event, Generated)]
    assert [event.row for event in told if isinstance(event, Prediction)] == answered[:2]
    assert said in [event.message for event in told if isinstance(event, Warned)]


def test_a_new_run_sets_answers_aside(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """Answers of an earlier run go with it, and none of them is among the new ones."""
    for _ in range(2):
        run(answering("out", train__iters=1))
    lines = [
        len((folder / PREDICTIONS_NAME).read_text().splitlines())
        for folder in (tmp_path / "out", tmp_path / "out" / "earlier-1")
    ]

    assert lines == [6, 6]
    assert json.loads((tmp_path / "out" / PREDICTIONS_NAME).read_text().splitlines()[0])["step"] == 0


def test_without_rows_to_answer_there_is_no_file(answering: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run that answers nothing writes no predictions."""
    run(answering("out", eval__answer_rows=0, eval__answer_every=1, train__iters=1))

    assert not (tmp_path / "out" / PREDICTIONS_NAME).exists()
    assert not list(itertools.chain((tmp_path / "out").glob("predictions*")))


@pytest.mark.parametrize("told", [None, "the model cannot answer: theirs"])
def test_all_ranks_learn_that_one_cannot_answer(
    told: str | None, answering: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank with nothing to ask would wait for what another one, which has failed, never told."""
    gathered: list[Any] = []

    def predict(*_: Any, **__: Any) -> Generator[Prediction, None, None]:
        if told is None:
            msg = "the model cannot answer: ours"
            raise AnswerError(msg)
        yield from ()

    def gather(value: Any) -> list[Any]:
        gathered.append(value)
        return [json.loads(json.dumps(value)), [told, [], 0, 0, False]]

    monkeypatch.setattr(answers, "predict", predict)
    rank: Any = SimpleNamespace(
        recipe=answering("out"),
        data=SimpleNamespace(valid=range(3), encoder=None),
        ranks=SimpleNamespace(rank=0, size=2, gather=gather),
        loader=SimpleNamespace(workers=None),
        backbone=None,
        bound=nullcontext,
        drain_events=lambda: (),
        loop=SimpleNamespace(state=SimpleNamespace(step=0)),
        left_off=(),
    )
    (_, warned) = answers.answer(rank, "before", lambda: False)

    assert len(gathered) == 1
    assert isinstance(warned, Warned)
    assert (told or "the model cannot answer: ours") in warned.message
