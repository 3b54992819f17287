"""Lines of predictions.jsonl hold what they are given, whatever models write."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.errors import EvaluationError
from vlora.evaluation.prediction import (
    Prediction,
    dump_prediction,
    parse_prediction,
    plain_columns,
    read_predictions,
)

TEXTS = st.text(st.characters())
"""Halves of pairs of surrogates among them."""


@given(TEXTS, TEXTS, TEXTS, st.floats(allow_nan=False, allow_infinity=False))
def test_a_line_is_read_as_it_was_written(prompt: str, expected: str, answer: str, value: float) -> None:
    """Any text survives, and so do sizes, columns and scores."""
    prediction = Prediction(
        row="rows.jsonl:3",
        images=("a.png", "b.png"),
        prompt=prompt,
        expected=expected,
        answer=answer,
        step=12,
        columns={"answers": ["x", answer]},
        image_sizes=((640, 480), (1, 2)),
        convention="qwen3",
    )

    line = dump_prediction(prediction, {"exact_match": value})

    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line.encode()
    assert parse_prediction(line, "p:1") == (prediction, {"exact_match": value})


def test_the_keys_of_a_line() -> None:
    """Others read the file too: its keys and their order stay."""
    line = json.loads(dump_prediction(Prediction(row="r:1", expected="a", answer="b"), {}))

    expected = "row images prompt expected answer scores step columns image_sizes convention"
    assert list(line) == expected.split()


def test_texts_are_readable_in_the_file() -> None:
    """Umlauts stand there as they are."""
    assert "Köln" in dump_prediction(Prediction(row="r:1", expected="Köln", answer=""), {})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"row": "r"}', '{"row": "r", "expected": 3, "answer": "a"}', '{"row": 1, "scores": 5}'],
)
def test_other_lines_are_named(text: str) -> None:
    """A line that is no answer is told with its place."""
    with pytest.raises(EvaluationError, match=r"^here:7: found .*expected an answer as vlora writes it"):
        parse_prediction(text, "here:7")


def test_what_a_line_lacks_is_named() -> None:
    """In the file's words."""
    with pytest.raises(EvaluationError, match=r"\(it has no 'expected' and no 'answer'\)"):
        parse_prediction('{"row": "r"}\n', "here:7")


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    """Characters that some take for line breaks are none, and empty lines are passed over."""
    predictions = [Prediction(row=f"r:{n}", expected="a\u2028b", answer="\x85\x1c") for n in range(3)]
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n".join(dump_prediction(each, {"cer": 0.5}) for each in predictions), encoding="utf-8")

    assert list(read_predictions(file)) == [(each, {"cer": 0.5}) for each in predictions]
    with pytest.raises(EvaluationError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        list(read_predictions(tmp_path / "nowhere"))
    with pytest.raises(EvaluationError, match=r"/dev/zero: cannot be read \(it is a device; expected a file\)"):
        list(read_predictions(Path("/dev/zero")))


def test_plain_columns() -> None:
    """What JSON has no word for is left out, deep inside too."""
    row = {"a": "x", "b": b"x", "c": [1, {"d": None}], "e": [b"x"], "f": float("nan"), "g": True, "h": object()}

    assert plain_columns(row) == {"a": "x", "c": [1, {"d": None}], "g": True}
