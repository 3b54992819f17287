"""Values added up by example and by group, fillers left out."""

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora import Example, collate, collate_packed
from vlora.train.objectives.sums import read_column, sum_by_example, sum_by_group, sum_in_two_parts


def make_rows(groups: list[int | None]) -> list[Example]:
    """Make rows of 3, 4, 5 ... tokens, all but the first one supervised."""
    rows = []
    for number, group in enumerate(groups):
        marks = np.arange(3 + number) > 0
        row = Example("row", np.arange(3 + number, dtype=np.int32), marks, ~marks & False)
        rows.append(attrs.evolve(row, group=group))
    return rows


@given(st.lists(st.none() | st.integers(5, 7), min_size=1, max_size=5), st.integers(0, 3), st.booleans())
def test_sums(groups: list[int | None], n_fillers: int, is_packed: bool) -> None:
    """An example's sum is that of its targets, a group's that of its examples; beyond them there is nothing."""
    rows = make_rows(groups)
    batch = collate_packed([rows], 1 + n_fillers) if is_packed else collate(rows, len(rows) + n_fillers)
    of_examples = sum_by_example(batch.targets.weights, batch.targets)
    # Whatever fillers hold counts for nothing.
    of_groups = np.array(sum_by_group(of_examples + 100 * (1 - batch.targets.example_weights), batch.targets))
    wanted: dict[object, int] = {}
    for place, (row, group) in enumerate(zip(rows, groups, strict=True)):
        key = ("alone", place) if group is None else group
        wanted[key] = wanted.get(key, 0) + len(row.tokens) - 1

    assert np.array(of_examples).tolist()[: len(rows)] == [len(row.tokens) - 1 for row in rows]
    assert of_groups.tolist() == [*wanted.values(), *[0] * (len(of_groups) - len(wanted))]
    assert mx.sum(of_examples).item() == batch.n_supervised


@given(st.integers(1, 600), st.floats(0.01, 25), st.integers(0, 2**32 - 1))
def test_two_parts_hold_what_one_number_does_not(n_tokens: int, size: float, seed: int) -> None:
    """Their sum is that of double precision within 1e-6 in any order, and all of the gradient is the values' own."""
    random = np.random.default_rng(seed)
    values = (-size * random.random(n_tokens)).astype(np.float32)
    row = Example("row", np.zeros(n_tokens + 1, np.int32), np.arange(n_tokens + 1) > 0, np.zeros(n_tokens + 1, bool))
    targets = collate([row]).targets
    spare = np.zeros(len(targets.weights) - n_tokens, np.float32)
    orders = [mx.array(np.concatenate([given, spare])) for given in (values, values[::-1])]
    found = [sum(float(part[0]) for part in sum_in_two_parts(given, targets)) for given in orders]
    slope = mx.grad(lambda given: mx.stack([*sum_in_two_parts(given, targets)])[:, 0].sum())(orders[0])

    assert found == pytest.approx([float(values.astype(np.float64).sum())] * 2, abs=1e-6)
    assert slope.tolist() == [1] * len(orders[0])


def test_a_column_may_be_missing() -> None:
    """It is 0 for all examples then; of fillers it always is."""
    targets = collate([attrs.evolve(row, columns={"side": 2.0}) for row in make_rows([None, None])], 3).targets
    changed = targets._replace(columns={"side": targets.columns["side"] + 1})

    assert read_column("side", changed).tolist() == [3, 3, 0]
    assert read_column("other", targets).tolist() == [0, 0, 0]
