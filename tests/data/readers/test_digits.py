"""The built-in rows: handwritten digits, asked for as digits or as names."""

import numpy as np
import pytest

from tests.data.data_sets import (
    problem_of,
    read,
)
from vlora import models


@pytest.mark.parametrize(("config", "answers"), [(None, "0123456789"), ("digit", "0123456789"), ("name", None)])
def test_digits(config: str | None, answers: str | None) -> None:
    """The built-in digits are real pictures with their figures or words; train and test share none."""
    train = read("builtin:digits", config=config)
    test = read("builtin:digits", config=config, split="test")

    assert (len(train), len(test)) == (1497, 300)
    sample = test[0]
    assert models.open_image(sample.images[0], sample.source, None).size == (32, 32)
    found = {test[index].turns[1].text for index in range(len(test))}
    assert found == set(answers or ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    drawn = [
        {np.array(row["image"]).tobytes() for row in map(rows.table.__getitem__, range(len(rows.table)))}
        for rows in (train, test)
    ]
    assert not drawn[0] & drawn[1]


def test_unknown_digits() -> None:
    """Splits and questions that the built-in digits lack are reported with those that they have."""
    assert "'train' and 'test'" in problem_of("builtin:digits", split="dev")
    assert "'digit', 'name'" in problem_of("builtin:digits", config="colour")
