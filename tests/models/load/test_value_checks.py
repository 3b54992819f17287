"""Each check says what a value has to be, or nothing where it is that; null is absent."""

import math
from typing import Any

import pytest

from vlora.models.load import value_checks as checks

CHECKS: list[tuple[Any, list[Any], list[Any]]] = [
    (checks.count(5), [1, 5], [0, 6, 1.0, True, "1", [1]]),
    (checks.count(5, least=0), [0], [-1]),
    (checks.counts(5), [3, [1, 5]], [0, [1, 0], [None], "3", [True]]),
    (checks.number, [0, -1.5, 10**20], [math.nan, math.inf, 10**301, True, "1"]),
    (checks.not_negative, [0, 2.5], [-1e-9, "0"]),
    (checks.positive, [1, 1e-9], [0, -1, math.nan]),
    (checks.numbers, [1, [1, -2.5]], [[], [None], ["1"], "grey"]),
    (checks.scales, [1, [0.5, 2]], [0, [], [1, 0], [None]]),
    (checks.mapping, [{}, {"a": 1}], [[], "a", 1]),
    (checks.text, ["", "a"], [1, ["a"], {}]),
    (checks.texts, [["a"], []], [[1], {}]),
    (checks.family_name, ["qwen3_vl"], ["../a", "a/b", 3, None]),
]


@pytest.mark.parametrize(("check", "right", "wrong"), CHECKS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_right_values_pass_and_wrong_ones_are_told(check: Any, right: list[Any], wrong: list[Any]) -> None:
    """What is told begins with "must be", so that it can follow the key and the value found."""
    absent = [] if None in wrong else [None]
    assert not any(check(value) for value in (*absent, *right))
    for value in wrong:
        assert (check(value) or "").startswith("must be"), value
