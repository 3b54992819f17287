"""Values added up by example and by group, fillers left out."""

import attrs
import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlora import Example, collate, collate_packed
from vlora.train.objectives.sums import read_column, sum_by_example, sum_by_group


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


def test_a_column_may_be_missing() -> None:
    """It is 0 for all examples then; of fillers it always is."""
    targets = collate([attrs.evolve(row, columns={"side": 2.0}) for row in make_rows([None, None])], 3).targets
    changed = targets._replace(columns={"side": targets.columns["side"] + 1})

    assert read_column("side", changed).tolist() == [3, 3, 0]
    assert read_column("other", targets).tolist() == [0, 0, 0]
