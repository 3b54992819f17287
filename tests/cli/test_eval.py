"""`python -m vlora eval` shows metrics with their intervals and the worst answers, and says where all of them are."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import make_recipe, run, write_image_rows
from vlora.cli import eval as command
from vlora.cli.main import main
from vlora.cli.screen import Screen
from vlora.compilation import known_kernels
from vlora.evaluation.metrics import find_metrics, score
from vlora.evaluation.prediction import Prediction
from vlora.recipe.parse import dump_recipe
from vlora.run.evaluation import Evaluated

CheckpointFactory = Callable[[str], Path]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows with images of two sizes, and one without."""
    return write_image_rows(tmp_path)


@pytest.fixture
def recipe_file(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> Path:
    """Write the recipe of a run that is over."""
    recipe = make_recipe(
        checkpoint("qwen3_vl"),
        rows,
        tmp_path / "out",
        data__valid_path=str(rows),
        eval__max_new_tokens=2,
        eval__metrics=["token_f1", "cer"],
        train__iters=1,
    )
    run(recipe)
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe))
    return file


def test_it_shows_what_was_found(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Model, rows, metrics and file; exit status 0."""
    status = main(["eval", str(recipe_file), "--rows", "5", "--set", 'eval.metrics=["token_f1", "exact_match"]'])
    before, *shown = capsys.readouterr().out.splitlines()[1:]

    assert status == 0
    assert before == "loading the model ..."
    assert shown[0] == f"model: {tmp_path / 'out' / 'adapters.safetensors'} after 1 step"
    assert shown[1] == "rows: 5 of rows.jsonl train"
    # The recipe holds out no rows: those that it trains on are answered.
    assert shown[2].startswith("note 2 of these 5 rows are among those that the run has learned")
    assert shown[3].startswith("token_f1     0.")
    assert shown[4].startswith("exact_match  0.000  (0.000 to 0.000)")
    assert shown[-1] == f"answers: {tmp_path / 'out' / 'predictions-eval.jsonl'}"
    assert len((tmp_path / "out" / "predictions-eval.jsonl").read_text().splitlines()) == 5


def test_a_metric_of_no_row_is_said(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric that applies to none of the rows has no value, and is named."""
    status = main(["eval", str(recipe_file), "--rows", "1", "--set", 'eval.metrics=["box_iou"]'])

    assert status == 0
    assert "no row has what this measures: box_iou\n" in capsys.readouterr().out


def test_options_choose_what_is_evaluated(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base, other rows and another file; the older script's --split is not meant here."""
    file = tmp_path / "base.jsonl"
    chosen = ["--base", "--split", "train", "--rows", "2", "--write", str(file), "--set", 'eval.metrics=["contains"]']
    status = main(["eval", str(recipe_file), *chosen])

    assert status == 0
    assert ", untrained\n" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "predictions-eval.jsonl").exists()


def test_programs_are_told_the_scores_of_each_answer(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the answers, as the file has them."""
    assert main(["eval", str(recipe_file), "--base", "--rows", "3", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answers = [line for line in told if line["event"] == "Prediction"]
    written = [json.loads(line) for line in Path(told[-1]["file"]).read_text().splitlines()]

    assert told[-1]["event"] == "Scores"
    assert told[-1]["file"] == str(tmp_path / "out" / "predictions-eval-base.jsonl")
    assert [line["row"] for line in told[-1]["rows"]] == [answer["row"] for answer in answers]
    assert told[-1]["rows"] == [{"row": line["row"], "scores": line["scores"]} for line in written]
    assert all(set(line["scores"]) == {"token_f1", "cer"} for line in told[-1]["rows"])


def test_errors_have_the_status_of_other_commands(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the user can mend is one sentence and status 2; options that exclude one another are refused."""
    assert main(["eval", str(recipe_file), "--adapter", "nowhere.safetensors"]) == 2
    assert capsys.readouterr().err.startswith("vlora: --adapter: there is nothing at nowhere.safetensors; ")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(recipe_file), "--adapter", "a", "--base"])
    assert ended.value.code == 2


def test_the_worst_come_first(tmp_path: Path) -> None:
    """By the first metric, lower ones first, or higher ones where less is better; a perfect row is none of them."""
    predictions = [
        Prediction(row=f"row {number}", expected="abcd", answer=answer)
        for number, answer in enumerate(["abcd", "abxx", "xxxx", "abcx", "axxx"])
    ]
    for name, best in (("token_f1", "abcd"), ("exact_match_strict", "abcd")):
        metrics = find_metrics([name])
        found = Evaluated(
            metrics=metrics, predictions=predictions, scores=score(metrics, predictions), file=tmp_path / "x"
        )
        worst = [predictions[place].answer for place in command._find_worst(found)]
        assert len(worst) == command.N_WORST
        assert best not in worst


def test_answers_that_are_all_wrong_are_shown(tmp_path: Path) -> None:
    """Rows that are equally bad are the worst, whichever way a metric counts; rows that are all right are not."""
    for name, answer, n_shown in (("exact_match", "b", 2), ("cer", "b", 2), ("exact_match", "a", 0), ("cer", "a", 0)):
        metrics = find_metrics([name])
        predictions = [Prediction(row=f"row {number}", expected="a", answer=answer) for number in range(2)]
        scores = score(metrics, predictions)
        found = Evaluated(metrics=metrics, predictions=predictions, scores=scores, file=tmp_path / "x")

        assert len(command._find_worst(found)) == n_shown, (name, answer)


def test_hostile_answers_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no markup, and long answers are cut."""
    metrics = find_metrics(["exact_match"])
    predictions = [
        Prediction(row="[red]row[/]", expected="a", answer="[bold]" + "x" * 999),
        Prediction(row="row 2", expected="a", answer="a"),
    ]
    found = Evaluated(metrics=metrics, predictions=predictions, scores=score(metrics, predictions), file=tmp_path)
    command._show(found, Screen(width=80))
    shown = capsys.readouterr().out

    assert "  [red]row[/]: 0.000\n" in shown
    assert f"answered '[bold]{'x' * (command.LONGEST - 6)}...'" in shown


def test_kernels_that_are_compiled_are_said(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where known ones are missing, workers compile them side by side before a question is asked, and lines say so."""
    worker = subprocess.Popen(["true"])
    compilation = known_kernels.Compilation(tmp_path, None, [Path("none.so")], [worker])
    monkeypatch.setattr(known_kernels, "begin_for", lambda _: compilation)
    status = main(["eval", str(recipe_file), "--rows", "1"])
    shown = capsys.readouterr().out.splitlines()

    assert status == 0
    assert shown[0] == "compiling 1 kernel, 1 at a time"
    assert shown[1] == "reading the rows ..."
    assert shown[2].startswith("compiled 0 kernels in 0.0 s, kept in ")
    assert shown[3] == "loading the model ..."
    assert shown[4].startswith("model: ")
    assert not compilation.workers
