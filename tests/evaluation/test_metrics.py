"""Names find metrics, and metrics score answers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlora.errors import RecipeError
from vlora.evaluation.metric import by_row
from vlora.evaluation.metrics import MEANINGS, METRICS, find_metrics, score
from vlora.evaluation.prediction import Prediction


def make_predictions(*pairs: tuple[str, str]) -> list[Prediction]:
    """Make predictions of (expected, answered)."""
    return [Prediction(row=f"r:{n}", expected=expected, answer=answer) for n, (expected, answer) in enumerate(pairs)]


def test_every_metric_is_found_by_its_name() -> None:
    """The names are those of the table, in the order in which they are asked for."""
    assert [metric.name for metric in find_metrics(list(METRICS))] == list(METRICS)
    assert set(MEANINGS.values()) <= set(METRICS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("accuracy", "did you mean 'exact_match'?"),
        ("Exact-Match", "did you mean 'exact_match'?"),
        ("exact_mach", "did you mean 'exact_match'?"),
        ("acuracy", "did you mean 'exact_match'?"),
        ("F1", "did you mean 'token_f1'?"),
        ("rougeL", "did you mean 'rouge_l'?"),
        ("acc@0.5", "did you mean 'box_acc_50'?"),
        ("IoU", "did you mean 'box_iou'?"),
        ("quality", "expected one of exact_match, exact_match_strict, .*, or module:function"),
    ],
)
def test_unknown_names_are_told_near_ones(name: str, hint: str) -> None:
    """By their spelling and by their meaning."""
    with pytest.raises(RecipeError, match=rf"^eval\.metrics: found '{name}', which is no metric; {hint}"):
        find_metrics(["contains", name])


def test_a_metric_is_named_once() -> None:
    """Its column would be there twice."""
    with pytest.raises(RecipeError, match="found 'contains' twice; name each metric once"):
        find_metrics(["contains", "exact_match", "contains"])


def test_scores_of_rows_and_of_all() -> None:
    """Rows have their values, and the mean has an interval that holds it."""
    pairs = [("a", "A"), ("b", "x"), ("", "y"), ("c", "the c")]

    scores = score(find_metrics(["exact_match", "contains", "token_f1"]), make_predictions(*pairs))

    assert scores.rows == [
        {"exact_match": 1.0, "contains": 1.0, "token_f1": 1.0},
        {"exact_match": 0.0, "contains": 0.0, "token_f1": 0.0},
        {"exact_match": 0.0, "token_f1": 0.0},
        {"exact_match": 0.0, "contains": 1.0, "token_f1": 1.0},
    ]
    assert {name: (found.mean, found.n) for name, found in scores.summary.items()} == {
        "exact_match": (0.25, 4),
        "contains": (pytest.approx(2 / 3), 3),
        "token_f1": (0.5, 4),
    }
    for found in scores.summary.values():
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.mean < found.high


def test_nothing_to_score() -> None:
    """No answers have no scores, and a metric that applies to no row is left out."""
    metrics = [*find_metrics(["exact_match"]), by_row("none", lambda _: None)]

    assert score(metrics, []).rows == []
    assert score(metrics, []).summary == {}
    found = score(metrics, make_predictions(("a", "a")))
    assert list(found.summary) == ["exact_match"]
    assert found.idle == ("none",)


def test_a_missing_package_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)

    with pytest.raises(RecipeError) as raised:
        find_metrics(["exact_match", "cer", "anls"])

    assert str(raised.value) == (
        "eval.metrics: cer and anls need jiwer and rapidfuzz, which cannot be imported; "
        "`python -m pip install jiwer rapidfuzz` brings them"
    )


def test_the_readme_has_all_metrics() -> None:
    """With the packages that they need."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Metrics")[2].partition("## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    told = {name: cells[-1] for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}

    assert list(told) == list(METRICS)
    for metric in METRICS.values():
        assert set(metric.libraries.values()) == set(re.findall(r"`([\w-]+)`", told[metric.name]))


def test_metrics_load_no_library_before_they_are_asked_for() -> None:
    """A command that scores nothing does not wait for them."""
    code = (
        "import sys; import vlora.evaluation.metrics; "
        "print([name for name in ('jiwer', 'sacrebleu', 'rouge_score', 'rapidfuzz') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
