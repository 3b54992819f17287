"""Metrics of one's own, and what goes wrong with them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlora.errors import EvaluationError, RecipeError
from vlora.evaluation.metrics import find_metrics, score
from vlora.evaluation.prediction import Prediction

MODULE = """
def length_off(predictions, references, rows):
    return [abs(len(a) - len(b)) for a, b in zip(predictions, references)]
length_off.higher_is_better = False

def of_kind(predictions, references, rows):
    return [None if row.get("kind") is None else float(row["kind"] == "cat") for row in rows]

def as_array(predictions, references, rows):
    import numpy as np
    return np.array([0.5] * len(rows))

def in_all(predictions, references, rows):
    return {"f1": 0.5, "n": len(rows)}

def failing(predictions, references, rows):
    raise KeyError("kind")

def too_few(predictions, references, rows):
    return [1.0]

def a_text(predictions, references, rows):
    return "good"

def ending(predictions, references, rows):
    raise SystemExit(3)

def too_large(predictions, references, rows):
    return [10**400] * len(rows)

def not_finite(predictions, references, rows):
    return [float("nan")] * len(rows)

number = 3
"""

PREDICTIONS = [
    Prediction(row="r:1", expected="a", answer="abc", columns={"kind": "cat"}),
    Prediction(row="r:2", expected="ab", answer="ab", columns={"kind": "dog"}),
    Prediction(row="r:3", expected="ab", answer=""),
]


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_scores.py").write_text(MODULE)
    (tmp_path / "broken_scores.py").write_text("1 / 0")
    (tmp_path / "script.py").write_text("raise SystemExit('usage: script FILE')")
    (tmp_path / "needy_scores.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("own_scores", None)


def run(function: str) -> Any:
    """Score with a function of the module."""
    return score(find_metrics([f"own_scores:{function}"]), PREDICTIONS)


def test_a_list_is_a_value_for_each_row() -> None:
    """Under the function's name, with a mean and its interval; a module lies in the current folder."""
    found = run("length_off")

    assert found.rows == [{"length_off": 2.0}, {"length_off": 0.0}, {"length_off": 2.0}]
    assert found.summary["length_off"].mean == pytest.approx(4 / 3)
    assert found.summary["length_off"].low is not None
    assert not find_metrics(["own_scores:length_off"])[0].is_higher_better
    assert find_metrics(["own_scores:of_kind"])[0].is_higher_better


def test_columns_are_given_and_none_leaves_a_row_out() -> None:
    """A function sees the rows."""
    found = run("of_kind")

    assert found.rows == [{"of_kind": 1.0}, {"of_kind": 0.0}, {}]
    assert found.summary["of_kind"].n == 2


def test_arrays_are_lists() -> None:
    """NumPy's are what functions often give."""
    assert run("as_array").rows == [{"as_array": 0.5}] * 3


def test_a_dict_has_values_over_all_rows() -> None:
    """They have no interval, and rows have none of them."""
    found = run("in_all")

    assert found.rows == [{}, {}, {}]
    assert found.summary["in_all.f1"].mean == 0.5
    assert found.summary["in_all.n"].low is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("failing", r"'own_scores:failing' raised KeyError: 'kind'; mend the function"),
        ("too_few", r"'own_scores:too_few' gave 1 values, expected a list of 3 numbers or a dict of numbers"),
        ("a_text", r"'own_scores:a_text' gave str, expected a list of 3 numbers"),
        ("ending", r"'own_scores:ending' raised SystemExit: 3; mend the function"),
        ("too_large", r"'own_scores:too_large' gave 1000.*, expected a finite number"),
        ("not_finite", r"'own_scores:not_finite' gave nan, expected a finite number, or None"),
    ],
)
def test_faults_of_functions_are_one_sentence(function: str, message: str) -> None:
    """What was raised or given, and by which function."""
    with pytest.raises(EvaluationError, match=rf"^eval\.metrics: {message}"):
        run(function)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:f", "there is no module nowhere; run the command in the folder of nowhere.py"),
        ("own_scores:lenght", "own_scores has no function 'lenght'; it has length_off, of_kind"),
        ("own_scores:number", "own_scores has no function 'number'"),
        ("own_scores:", "own_scores has no function ''"),
        ("broken_scores:f", "importing broken_scores raised ZeroDivisionError: division by zero; mend the module"),
        ("script:f", "importing script raised SystemExit: usage: script FILE; mend the module"),
        ("needy_scores:f", "needy_scores imports a_package_that_is_not_there, which is not installed; install it"),
    ],
)
def test_what_cannot_be_found_is_told_before_training(name: str, message: str) -> None:
    """When metrics are looked for."""
    with pytest.raises(RecipeError, match=rf"^eval\.metrics: found '{name}', and {message}"):
        find_metrics([name])


def test_a_function_may_not_have_a_metrics_name(tmp_path: Path) -> None:
    """Two columns would have one name."""
    (tmp_path / "own_bleu.py").write_text("def bleu(predictions, references, rows): return []")

    with pytest.raises(RecipeError, match="'bleu' is the name of two metrics; rename the function"):
        find_metrics(["bleu", "own_bleu:bleu"])
