"""Batches: few shapes, every row once, nothing that counts in the padding."""

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples
from vlora import Example, bucket_length, collate, collate_packed
from vlora.data.collate import make_stand_in
from vlora.errors import BatchError
from vlora.ops.buckets import bucket_targets


@given(st.lists(examples(), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 5))
def test_collate(rows: list[Example], n_fillers: int, pad_id: int) -> None:
    """Rows stand at the start of their line; padding and fillers hold the padding token and count for nothing."""
    batch = collate(rows, len(rows) + n_fillers, pad_id)
    tokens, valid = np.array(batch.tokens), np.array(batch.valid)
    length = tokens.shape[1]

    assert batch.tokens.dtype == mx.int32
    assert valid.dtype == np.bool_
    assert tokens.shape == valid.shape
    assert tokens.shape == (len(rows) + n_fillers, bucket_length(max(1, *(len(row.tokens) - 1 for row in rows))))
    assert batch.rows == tuple(rows)
    for index, row in enumerate(rows):
        read = row.tokens[:length]
        assert len(read) >= len(row.tokens) - 1
        assert tokens[index, : len(read)].tolist() == read.tolist()
        assert valid[index].nonzero()[0].tolist() == list(range(len(read)))
    assert (tokens[~valid] == pad_id).all()
    assert not valid[len(rows) :].any()


@given(st.lists(examples(), min_size=1, max_size=4), st.integers(0, 3))
def test_targets(rows: list[Example], n_fillers: int) -> None:
    """Every supervised token is the target of the place before it, once; what is added weighs nothing."""
    batch = collate(rows, len(rows) + n_fillers)
    positions, targets, weights = (np.array(array) for array in batch.targets[:3])
    length = batch.tokens.shape[1]
    expected = [
        (index * length + place - 1, row.tokens[place])
        for index, row in enumerate(rows)
        for place in np.flatnonzero(row.supervised)
        if place
    ]

    assert list(zip(positions[weights > 0], targets[weights > 0], strict=True)) == expected
    assert set(weights.tolist()) <= {0.0, 1.0}
    assert not targets[weights == 0].any()
    assert len(positions) == bucket_targets(len(expected), batch.tokens.size)
    assert positions.max(initial=0) < batch.tokens.size


def make_row(n_tokens: int, n_marks: int | None = None) -> Example:
    n_marks = n_tokens if n_marks is None else n_marks
    return Example(
        source="rows row 7",
        tokens=np.ones(n_tokens, dtype=np.int32),
        supervised=np.ones(n_marks, dtype=np.bool_),
        placeholders=np.zeros(n_tokens, dtype=np.bool_),
    )


def test_first_token_is_no_target() -> None:
    """Nothing precedes the first token, so it is not supervised even if an example says so."""
    batch = collate([make_row(3)])

    assert np.array(batch.targets.positions)[:2].tolist() == [0, 1]
    assert float(batch.targets.weights.sum()) == 2


def test_the_last_token_is_not_read() -> None:
    """A row one longer than a bucket fits into it: its last token is only predicted."""
    assert collate([make_row(33)]).tokens.shape == (1, 32)
    assert collate([make_row(34)]).tokens.shape == (1, 64)
    assert collate([make_row(300)], multiple=128).tokens.shape == (1, 384)


def test_default_batch_size() -> None:
    """Without a batch size there are no fillers."""
    assert collate([make_row(3), make_row(40)]).tokens.shape == (2, 64)


@pytest.mark.parametrize(
    ("rows", "batch_size", "words"),
    [
        ([], None, ["0 examples"]),
        ([], 4, ["4 rows", "0 examples"]),
        ([make_row(3)] * 3, 2, ["2 rows", "3 examples"]),
        ([make_row(0)], None, ["rows row 7", "0 tokens"]),
        ([make_row(3, 2)], None, ["rows row 7", "3 tokens", "2 marks"]),
    ],
)
def test_collate_refuses(rows: list[Example], batch_size: int | None, words: list[str]) -> None:
    """Rows that make no batch are refused with what was found."""
    with pytest.raises(BatchError) as caught:
        collate(rows, batch_size)

    for word in words:
        assert word in str(caught.value)


def test_columns_stand_beside_targets() -> None:
    """A number for each example, fillers too, and one for each target where an example has one for each token."""
    rows = [
        attrs.evolve(make_row(n), columns={"gain": float(n), "old": np.arange(n, dtype=np.float32)}) for n in (3, 2, 4)
    ]
    batch, packed = collate(rows, 5), collate_packed([rows[:2], rows[2:]], 2)

    for targets, n_slots in ((batch.targets, 5), (packed.targets, 4)):
        assert targets.example[:6].tolist() == [0, 0, 1, 2, 2, 2]
        assert targets.example_weights.tolist() == [1, 1, 1] + [0] * (n_slots - 3)
        assert targets.columns["gain"].tolist() == [3, 2, 4] + [0] * (n_slots - 3)
        assert targets.columns["old"][:6].tolist() == [1, 2, 1, 1, 2, 3]
        assert targets.columns["old"].shape == targets.weights.shape


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, r"row 8: it and rows row 7 differ in the columns \['gain'\]"),
        ({"gain": np.ones(2)}, r"row 8: the column 'gain' has the shape \(2,\); give a number"),
        ({"gain": np.ones(3)}, r"row 8: the column 'gain' has the shape \(3,\); .* in all rows alike"),
    ],
)
def test_columns_are_those_of_all_rows(columns: dict[str, np.ndarray], words: str) -> None:
    """Rows that differ in what an objective reads make no batch."""
    first = attrs.evolve(make_row(3), columns={"gain": 1.0})
    second = attrs.evolve(make_row(3), source="row 8", columns=columns)

    with pytest.raises(BatchError, match=words):
        collate([first, second])


@given(st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 2), st.booleans())
def test_groups_are_numbered(groups: list[int | None], n_fillers: int, is_packed: bool) -> None:
    """Examples of one number have one in the batch, counted from 0; one that stands alone has its own."""
    rows = [attrs.evolve(make_row(3), group=group) for group in groups]
    batch = collate_packed([rows], 1 + n_fillers) if is_packed else collate(rows, len(rows) + n_fillers)
    found = np.array(batch.targets.group).tolist()
    numbers = found[: len(rows)]

    assert [numbers.index(number) for number in numbers] == [
        place if group is None else groups.index(group) for place, group in enumerate(groups)
    ]
    assert sorted(set(numbers)) == list(range(batch.n_groups))
    assert not any(found[len(rows) :])
    assert batch.targets.group.shape == batch.targets.example_weights.shape


def test_a_stand_in_is_a_batch_of_its_own() -> None:
    """It has a target, so that all that a batch runs is run."""
    batch = make_stand_in(7)

    assert batch.is_stand_in
    assert set(np.array(batch.tokens).flatten().tolist()) == {7}
    assert batch.n_supervised > 0
