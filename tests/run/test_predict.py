"""Rows answered in an own loop of public functions, as metrics take them."""

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import vlora
from tests.runs import make_recipe
from vlora.errors import SampleError

CheckpointFactory = Callable[[str], Path]


def test_rows_become_predictions(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Each has its row's columns, and is what `answer` gives; metrics take them as they are."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")
    data = vlora.load_data(recipe)
    backbone, _ = vlora.load_model(recipe, data.files)
    options = vlora.AnswerOptions(max_new_tokens=4, batch_size=3)
    found = list(vlora.predict(backbone, data.encoder, data.train, options))
    columns = [json.loads(line) for line in rows.read_text().splitlines()]

    assert [prediction.columns for prediction in found] == columns
    assert [prediction.expected for prediction in found] == [row["answer"] for row in columns]
    for number in (1, 3):
        alone = vlora.answer(backbone, data.encoder, data.train[number], max_new_tokens=4)
        assert found[number].answer == alone
    scores = vlora.score(vlora.find_metrics(["token_f1"]), found)
    assert scores.summary["token_f1"].n == len(columns)


def test_samples_of_ones_own(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """They need no file; one that cannot be read is raised, or told and passed over."""
    recipe = make_recipe(checkpoint("qwen3_vl"), rows, tmp_path / "out")
    data = vlora.load_data(recipe)
    backbone, _ = vlora.load_model(recipe, data.files)
    options = vlora.AnswerOptions(max_new_tokens=1)
    good = vlora.format_sample({"question": "Which?", "answer": "this"}, "mine")
    bad = attrs.evolve(good, source="a bad one", turns=good.turns[1:])
    told: list[SampleError] = []
    found = list(vlora.predict(backbone, data.encoder, [good, bad, good], options, on_bad_row=told.append))

    assert [prediction.row for prediction in found] == ["mine", "mine"]
    assert [prediction.columns for prediction in found] == [{}, {}]
    assert [str(error).partition(":")[0] for error in told] == ["a bad one"]
    with pytest.raises(SampleError, match=r"^a bad one"):
        list(vlora.predict(backbone, data.encoder, [good, bad], options))
