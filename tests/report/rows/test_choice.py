"""Rows are found by their numbers, as the longest ones, or by what was answered to them."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from vlora.data.rows import RowDataset
from vlora.errors import RecipeError
from vlora.report.rows.choice import Choice, Chosen, choose_rows

ROWS = [{"question": "Well?", "answer": str(number)} for number in range(10)]
TRAIN = RowDataset(name="rows.jsonl", table=ROWS, indices=[0, 2, 4, 6, 8, 9])
HELD_OUT = attrs.evolve(TRAIN, indices=[1, 3, 5, 7])
VALID = RowDataset(name="valid.jsonl", table=ROWS, indices=range(10))


def sources(chosen: list[Chosen]) -> list[str]:
    """Name the rows."""
    return [row.source.replace(".jsonl row", "") for row in chosen]


def write(folder: Path, lines: list[tuple[str, dict[str, float]]]) -> Path:
    """Write predictions."""
    path = folder / "predictions.jsonl"
    given: list[dict[str, Any]] = [
        {"row": row, "expected": "a", "answer": "b", "scores": scores} for row, scores in lines
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in given))
    return path


def test_first_rows() -> None:
    """Of those that are trained on; more than there are is all of them."""
    assert sources(choose_rows(Choice(n=2), [TRAIN, HELD_OUT])) == ["rows 0", "rows 2"]
    assert len(choose_rows(Choice(n=99), [TRAIN, VALID])) == 6


def test_numbers_are_those_of_messages() -> None:
    """Held out rows are among them; those of another file are not."""
    chosen = choose_rows(Choice(n=3, numbers=(9, 1, 2)), [TRAIN, HELD_OUT])

    assert sources(chosen) == ["rows 9", "rows 1", "rows 2"]
    assert [row.rows is HELD_OUT for row in chosen] == [False, True, False]
    for sets, number in (([TRAIN, VALID], 1), ([TRAIN, HELD_OUT], 10)):
        with pytest.raises(RecipeError, match=f"--rows: rows.jsonl has no row {number}; its rows are 0 to 9"):
            choose_rows(Choice(n=3, numbers=(number,)), sets)


def test_the_longest() -> None:
    """In their order."""
    assert sources(choose_rows(Choice(n=3, n_longest=2), [TRAIN, HELD_OUT], [8, 2])) == ["rows 8", "rows 2"]


def test_the_worst(tmp_path: Path) -> None:
    """By the first score or a named one; an error rate is worse if it is higher; rows without the score come last."""
    path = write(
        tmp_path,
        [
            ("rows.jsonl row 1", {"exact_match": 1.0, "cer": 0.9}),
            ("rows.jsonl row 2", {"exact_match": 0.0, "cer": 0.1}),
            ("valid.jsonl row 2", {"exact_match": 0.5}),
            ("others.jsonl row 3", {"exact_match": 0.0}),
            ("rows.jsonl row 99", {"exact_match": 0.0}),
        ],
    )
    sets = [TRAIN, HELD_OUT, VALID]

    assert sources(choose_rows(Choice(n=9, worst=path), sets)) == ["rows 2", "valid 2", "rows 1"]
    assert sources(choose_rows(Choice(n=9, worst=path, metric="cer"), sets)) == ["rows 1", "rows 2", "valid 2"]
    (worst,) = choose_rows(Choice(n=1, worst=path), sets)
    assert worst.prediction is not None
    assert (worst.prediction.answer, worst.scores) == ("b", {"exact_match": 0.0, "cer": 0.1})


def test_a_row_that_was_answered_twice(tmp_path: Path) -> None:
    """Its last answer counts."""
    path = write(
        tmp_path, [("rows.jsonl row 2", {"f": 0.0}), ("rows.jsonl row 4", {"f": 0.5}), ("rows.jsonl row 2", {"f": 1.0})]
    )

    assert sources(choose_rows(Choice(n=9, worst=path), [TRAIN])) == ["rows 4", "rows 2"]


@pytest.mark.parametrize(
    ("lines", "metric", "error"),
    [
        ([("others.jsonl row 3", {"f": 0.0})], None, "no answer of .* is to a row of rows.jsonl"),
        ([], None, "no answer of .* is to a row of rows.jsonl"),
        ([("rows.jsonl row 2", {})], None, "has no scores; it has none; score the answers with eval.metrics"),
        ([("rows.jsonl row 2", {"f": 0.0})], "cer", "--by: .* has no scores of 'cer'; it has f"),
    ],
)
def test_predictions_that_do_not_fit(
    lines: list[tuple[str, dict[str, float]]], metric: str | None, error: str, tmp_path: Path
) -> None:
    """A sentence says what is there."""
    with pytest.raises(RecipeError, match=error):
        choose_rows(Choice(n=9, worst=write(tmp_path, lines), metric=metric), [TRAIN])
