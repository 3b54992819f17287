"""A model evaluated apart from its run: the adapter, a numbered one, the base, or the whole model that was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.runs import make_recipe, run
from vlora.errors import EvaluationError, RecipeError, SampleError
from vlora.evaluation.prediction import Prediction, read_predictions
from vlora.events import Warned, Working
from vlora.output.paths import BEST_FILE, EVALUATION_NAME, EVALUATION_NAMES, PREDICTIONS_NAME
from vlora.recipe.schema import Recipe
from vlora.recipe.sources import SourceSection
from vlora.run.evaluation import Chosen, Evaluated, Opened, evaluate_answers

CheckpointFactory = Callable[[str], Path]


def evaluate(recipe: Recipe, **options: Any) -> tuple[Opened, Evaluated]:
    """Evaluate, and give what was opened and what was found."""
    going, told = evaluate_answers(recipe, Chosen(**options)), []
    while True:
        try:
            told.append(next(going))
        except StopIteration as end:
            (opened,) = (event for event in told if isinstance(event, Opened))
            steps = [event.what for event in told if isinstance(event, Working)]
            assert steps == ["reading the rows", "loading the model", "answering"]
            return opened, end.value


def answers_of(folder: Path, step: int) -> list[Prediction]:
    """List what a run has answered behind a step."""
    found = (prediction for prediction, _ in read_predictions(folder / PREDICTIONS_NAME))
    return [prediction for prediction in found if prediction.step == step]


@pytest.mark.parametrize("is_full", [False, True], ids=["lora", "full"])
def test_answers_are_those_of_the_run(
    is_full: bool,
    checkpoint: CheckpointFactory,
    rows: Path,
    tmp_path: Path,
) -> None:
    """Of what was trained in the end, of a checkpoint between, and of the base; no other file changes."""
    out = tmp_path / "out"
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        out,
        model__full_finetune=is_full,
        data__valid_path=str(rows),
        eval__answer_rows=-1,
        eval__answer_every=2,
        eval__max_new_tokens=4,
        eval__metrics=["exact_match", "token_f1"],
        train__iters=4,
    )
    run(recipe)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    opened, trained = evaluate(recipe)
    assert (opened.step, opened.n_rows) == (4, 7)
    assert trained.predictions == answers_of(out, 4)
    assert trained.file == out / EVALUATION_NAME
    assert [found for found, _ in read_predictions(trained.file)] == trained.predictions
    assert set(trained.scores.summary) == {"exact_match", "token_f1"}
    trained.file.unlink()
    opened, base = evaluate(recipe, is_base=True, file=tmp_path / "elsewhere" / "base.jsonl")
    assert base.predictions == answers_of(out, 0)
    assert opened.name.endswith(", untrained")
    if not is_full:
        between = out / "0000002_adapters.safetensors"
        opened, found = evaluate(recipe, adapter=str(between), n_rows=3, file=tmp_path / "elsewhere" / "2.jsonl")
        assert opened.step == 2
        assert found.predictions == answers_of(out, 2)[:3]
        best = tmp_path / "elsewhere" / "best"
        best.mkdir()
        shutil.copy(between, best / "adapters.safetensors")
        shutil.copy(out / "adapter_config.json", best)
        (best / BEST_FILE).write_text('{"step": 2, "valid_loss": 1.5}\n')
        for name in (best, best / "adapters.safetensors"):
            opened, again = evaluate(recipe, adapter=str(name), n_rows=3, file=tmp_path / "elsewhere" / "2.jsonl")
            assert opened.step == 2
            assert again.predictions == found.predictions
        assert evaluate(recipe, adapter=str(out), n_rows=1, file=tmp_path / "elsewhere" / "1.jsonl")[0].step == 4
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path: data for path, data in after.items() if tmp_path / "elsewhere" not in path.parents}
    assert kept == before
    for file in (rows, out / PREDICTIONS_NAME):
        with pytest.raises(RecipeError, match="is not overwritten"):
            evaluate(recipe, is_base=True, split="train", file=file)
    assert rows.read_bytes() == before[rows]
    assert (out / PREDICTIONS_NAME).read_bytes() == before[out / PREDICTIONS_NAME]


def test_other_rows(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Those to train on are answered by name; without held-out rows the way to name some is said."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", eval__max_new_tokens=1)
    _, found = evaluate(recipe, is_base=True, split="train", n_rows=2)

    assert [prediction.row for prediction in found.predictions] == ["rows.jsonl train row 0", "rows.jsonl train row 1"]
    with pytest.raises(RecipeError, match=r"holds out no rows; name some with data\.valid_split"):
        evaluate(recipe, is_base=True)
    with pytest.raises(RecipeError, match=r"^--split: found 'nowhere'"):
        evaluate(recipe, is_base=True, split="nowhere")
    source = SourceSection(path=str(recipe.data.path))
    mixture = attrs.evolve(recipe, data=attrs.evolve(recipe.data, path=None, sources=(source, source)))
    with pytest.raises(RecipeError, match=r"^--split: data\.sources\[0\]: found 'nowhere'"):
        evaluate(mixture, is_base=True, split="nowhere")
    sliced = evaluate(recipe, is_base=True, split="train[5:]")[1]
    assert [prediction.row for prediction in sliced.predictions] == ["rows.jsonl train row 5", "rows.jsonl train row 6"]


def test_each_model_and_split_has_its_file(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """One evaluation replaces another of the same only, and says so before."""
    out = tmp_path / "out"
    keys = {"data__valid_path": str(rows), "eval__max_new_tokens": 1, "train__iters": 2, "train__steps_per_save": 1}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, out, **keys)
    run(recipe)
    (tmp_path / "other").mkdir()
    for name in ("adapters.safetensors", "adapter_config.json"):
        shutil.copy(out / name, tmp_path / "other" / name)
    numbered = str(out / "0000001_adapters.safetensors")
    chosen: dict[str, dict[str, Any]] = {
        "predictions-eval.jsonl": {},
        "predictions-eval-base.jsonl": {"is_base": True},
        "predictions-eval-base-train-2.jsonl": {"is_base": True, "split": "train[:2]"},
        "predictions-eval-0000001_adapters.jsonl": {"adapter": numbered},
        "predictions-eval-other.jsonl": {"adapter": str(tmp_path / "other" / "adapters.safetensors")},
        "predictions-eval-other-train.jsonl": {"adapter": str(tmp_path / "other"), "split": "train"},
    }
    for name, options in chosen.items():
        assert evaluate(recipe, n_rows=1, **options)[1].file == out / name
    assert {file.name for file in out.glob(EVALUATION_NAMES)} == {*chosen}

    for adapter in (None, str(out), str(out / "adapters.safetensors")):
        events = evaluate_answers(recipe, Chosen(n_rows=1, adapter=adapter))
        told = [event for event in events if isinstance(event, Warned)]
        assert told[0].message.startswith(f"{out / EVALUATION_NAME} has earlier answers of this model")


@pytest.mark.parametrize("field", ["image", "question"])
def test_rows_that_cannot_be_answered_name_their_lines(
    field: str, checkpoint: CheckpointFactory, rows: Path, tmp_path: Path
) -> None:
    """Whether the row cannot be read or its question leaves no room."""
    bad = {"question": "word " * 5_000 if field == "question" else "q", "answer": "a", "image": "nowhere.png"}
    if field == "question":
        del bad["image"]
    rows.write_text(rows.read_text().splitlines()[0] + "\n" + json.dumps(bad) + "\n")
    keys = {"eval__max_new_tokens": 1, "data__on_long_row": "raise"}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **keys)
    why = {"image": "cannot read the image", "question": "its question of"}[field]
    with pytest.raises(SampleError, match=rf"^rows\.jsonl train row 1: line 2 of rows\.jsonl: {why}"):
        evaluate(recipe, is_base=True, split="train")


def test_answers_stay_where_a_metric_fails(
    checkpoint: CheckpointFactory, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answering takes longer than mending a function: the answers are written without scores, and the error says so."""
    (tmp_path / "failing_metric.py").write_text("def fail(predictions, references, rows):\n    raise KeyError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    keys = {"eval__max_new_tokens": 1, "eval__metrics": ["failing_metric:fail"]}
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", **keys)
    file = tmp_path / "answers.jsonl"
    with pytest.raises(EvaluationError, match=r"raised KeyError.*answers are in .*answers\.jsonl, without scores"):
        evaluate(recipe, is_base=True, split="train", n_rows=2, file=file)

    assert [(prediction.row, scores) for prediction, scores in read_predictions(file)] == [
        ("rows.jsonl train row 0", {}),
        ("rows.jsonl train row 1", {}),
    ]


def test_what_is_not_there_is_said(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Nothing trained yet, no such adapter, an adapter of what has none, and nothing that can be answered."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out", data__valid_path=str(rows))
    with pytest.raises(RecipeError, match=r"output\.path: there is nothing at .*adapters\.safetensors; train first"):
        evaluate(recipe)
    with pytest.raises(RecipeError, match="--adapter: there is nothing at"):
        evaluate(recipe, adapter=str(tmp_path / "none.safetensors"))
    full = attrs.evolve(recipe, model=attrs.evolve(recipe.model, full_finetune=True))
    with pytest.raises(RecipeError, match="trains no adapter"):
        evaluate(full, adapter="any")
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(line for line in lines if "image" in line))
    skipping = attrs.evolve(recipe, data=attrs.evolve(recipe.data, on_bad_row="skip"))
    with pytest.raises(EvaluationError, match=r"none of the 6 rows of rows\.jsonl train was answered"):
        evaluate(skipping, is_base=True)
    assert not (tmp_path / "out").exists()
