"""Packed rows of streams: each row once an epoch, no pack beyond an epoch, exact restarts, what a state says."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.data.streams import open_files, write_lines
from vlora.data.drawn_rows import draw_rows
from vlora.data.mixed_rows import mix_rows
from vlora.data.pack_plan import Item
from vlora.data.packed_streams import PackedStreamSteps, packed_stream_steps
from vlora.data.rows import RowDataset
from vlora.errors import CheckpointError
from vlora.recipe.parse import parse_recipe

FILES = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SIZE = 14
KTO: dict[str, Any] = {"train.objective": "kto"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write two sources."""
    folder = tmp_path_factory.mktemp("packed")
    return [write_lines(folder / "a", (5, 0, 9)), write_lines(folder / "b", (3,), first=100)]


def plan(
    paths: list[str], position: str = "", first: int = 0, *, rank: int = 0, n_ranks: int = 1, **keys: Any
) -> PackedStreamSteps:
    """Plan packs of one stream, or of a mixture of two, with `weights` or without."""
    weights = keys.pop("weights", [2, 1])
    given = {"data.path": "x.jsonl", "data.streaming": True, "train.iters": 1000, "train.batching": "packed"}
    given |= {"train.pack_length": 20, "data.max_seq_length": 20} | keys
    given |= {"data.shuffle_buffer": 4} if given.get("data.shuffle", True) else {}
    each = [RowDataset(name=path, table=[], indices=(), stream=open_files(path)) for path in paths]
    rows = each[0] if len(each) == 1 else mix_rows("all", each, weights=weights)
    recipe = parse_recipe("", given)
    return packed_stream_steps(recipe, draw_rows(rows), first, position, n_planned=n_ranks, rank=rank, n_ranks=n_ranks)


def number_of(steps: PackedStreamSteps, index: int) -> int | None:
    """Read a row; one of them cannot be learned from."""
    number = int(steps.drawn.rows[index].turns[-1].text.removeprefix("It is ").rstrip("."))
    return None if number == 7 else number


def read_ahead(found: Iterator[Item | None], n_ahead: int) -> Iterator[Item | None]:
    """Read rows before they are asked for, as threads do."""
    ahead: deque[Item | None] = deque()
    while True:
        ahead.extend(itertools.islice(found, n_ahead + 1 - len(ahead)))
        yield ahead.popleft()


def read(steps: PackedStreamSteps, n: int, n_ahead: int = 0) -> list[list[list[list[int]]]]:
    """Read the numbers of the rows of each pack of the next steps."""
    found = read_ahead((number_of(steps, index) for index in steps.indices()), n_ahead)
    planned = steps.plan(found, lambda number: 3 + number % 9)
    return [
        [[[number for _, number in pack] for pack in packs] for packs in step] for step in itertools.islice(planned, n)
    ]


@FILES
@given(
    cut=st.integers(0, 25),
    batch_size=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    is_mixed=st.booleans(),
    shuffle=st.booleans(),
    n_ahead=st.integers(0, 30),
)
@example(cut=3, batch_size=1, accumulation=1, is_mixed=False, shuffle=True, n_ahead=20)
def test_packs_go_on_at_any_step(
    paths: list[str], cut: int, batch_size: int, accumulation: int, is_mixed: bool, shuffle: bool, n_ahead: int
) -> None:
    """With the same packs, of rows that waited and others; every good row comes once an epoch."""
    chosen = paths if is_mixed else paths[:1]
    keys: dict[str, Any] = {"train.batch_size": batch_size, "data.shuffle": shuffle}
    keys["train.gradient_accumulation_steps"] = accumulation
    straight = plan(chosen, **keys)
    steps = read(straight, cut + 15)
    position = straight.dumps(cut)
    again = plan(chosen, position, cut, **keys)

    assert read(again, 15, n_ahead) == steps[cut:]
    assert [again.progress_at(cut + step).dumps() for step in range(16)] == [
        straight.progress_at(cut + step).dumps() for step in range(16)
    ]
    assert [again.ended(cut + step) for step in range(1, 16)] == [straight.ended(cut + step) for step in range(1, 16)]
    packs = [pack for step in steps for packs in step for pack in packs]
    assert all(sum(3 + number % 9 for number in pack) <= 20 for pack in packs)
    rows = [number for pack in packs for number in pack]
    if is_mixed:
        n_second = sum(number >= 100 for number in rows)
        assert abs(n_second - len(rows) / 3) < 3 + 2 * batch_size * 6
    else:
        good = SIZE - 1
        epochs = [rows[start : start + good] for start in range(0, len(rows), good)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        ended = [end for step in range(1, cut + 16) for end in straight.ended(step)]
        assert [(end.epoch, end.n_rows) for end in ended] == [(number + 1, SIZE) for number in range(len(ended))]
        assert len(ended) >= len(rows) // good


@FILES
@given(cut=st.integers(0, 25), batch_size=st.integers(1, 3), shuffle=st.booleans(), n_ahead=st.integers(0, 30))
def test_packs_without_weights(paths: list[str], cut: int, batch_size: int, shuffle: bool, n_ahead: int) -> None:
    """They go on at any step; a source begins anew when both have ended, and every row is learned or waits."""
    keys: dict[str, Any] = {"train.batch_size": batch_size, "data.shuffle": shuffle, "weights": None}
    straight = plan(paths, **keys)
    steps = read(straight, cut + 15)
    position = straight.dumps(cut)
    again = plan(paths, position, cut, **keys)

    assert read(again, 15, n_ahead) == steps[cut:]
    assert [again.dumps(cut + step) for step in range(16)] == [straight.dumps(cut + step) for step in range(16)]
    rows = [number for step in steps for packs in step for pack in packs for number in pack]
    progress = straight.progress_at(cut + 15)
    first, second = progress.streams
    n_bad = first.n_given - sum(row < 100 for row in rows) - sum(row.source == 0 for row in progress.waiting)
    assert abs(first.epoch - second.epoch) <= 1
    assert first.epoch <= n_bad <= first.epoch + 1
    assert second.n_given == sum(row >= 100 for row in rows) + sum(row.source for row in progress.waiting)
    assert [first.n_given, second.n_given] == [
        SIZE * first.epoch + first.position,
        3 * second.epoch + second.position,
    ]


@pytest.mark.parametrize("is_mixed", [False, True])
def test_rows_that_cannot_be_learned_from_end_a_step(paths: list[str], is_mixed: bool) -> None:
    """It is empty, and is there when every source was read through."""
    steps = plan(paths if is_mixed else paths[:1])
    found = (None for _ in itertools.islice(steps.indices(), 400))

    assert list(itertools.islice(steps.plan(found, len), 3)) == [[]] * 3
    epochs = [{end.source for end in steps.ended(step)} for step in (1, 2, 3)]
    assert epochs == [{0, 1} if is_mixed else {None}] * 3


def test_learned_rows_are_forgotten(paths: list[str]) -> None:
    """What can be read by number does not grow with the run."""
    steps = plan(paths)
    n_rows = sum(len(pack) for step in read(steps, 400) for packs in step for pack in packs)

    assert len(steps.drawn) < n_rows / 2
    with pytest.raises(KeyError):
        steps.progress_at(1)


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_other_ranks_are_given_up(paths: list[str], rank: int) -> None:
    """As soon as they are planned: what was read of them is not kept in memory."""
    steps = plan(paths, rank=rank, n_ranks=2)
    planned = steps.plan((number_of(steps, index) for index in steps.indices()), lambda number: 3 + number % 9)
    found = list(itertools.islice(planned, 20))
    own, others = (
        {index for (packs,) in found for pack in packs[which::2] for index, _ in pack} for which in (rank, 1 - rank)
    )

    assert own
    assert others
    assert all(number_of(steps, index) is not None for index in own)
    for index in others:
        with pytest.raises(KeyError):
            number_of(steps, index)


def joined_to(steps: PackedStreamSteps, index: int) -> tuple[int, int | None] | None:
    """Read a row, and the nearest drawn before it that can be learned from."""
    number = number_of(steps, index)
    others = (number_of(steps, other) for other in steps.drawn.find_before(index))
    return None if number is None else (number, next((other for other in others if other is not None), None))


def read_joined(steps: PackedStreamSteps, n: int, n_ahead: int) -> list[list[list[list[tuple[int, int | None]]]]]:
    """Read the rows of each pack of the next steps with those that they are joined to."""
    found = read_ahead((joined_to(steps, index) for index in steps.indices()), n_ahead)
    planned = steps.plan(found, lambda row: 3 + row[0] % 9)
    return [[[[row for _, row in pack] for pack in packs] for packs in step] for step in itertools.islice(planned, n)]


@FILES
@given(
    cut=st.integers(0, 25),
    batch_size=st.integers(1, 3),
    weights=st.sampled_from([None, [2, 1], "alone"]),
    shuffle=st.booleans(),
    n_ahead=st.integers(0, 30),
)
def test_joined_rows_go_on_at_any_step(
    paths: list[str], cut: int, batch_size: int, weights: Any, shuffle: bool, n_ahead: int
) -> None:
    """To the rows drawn before them, which are none of those drawn behind the stop; never to themselves."""
    chosen = paths[:1] if weights == "alone" else paths
    keys: dict[str, Any] = {**KTO, "train.batch_size": batch_size, "data.shuffle": shuffle, "weights": weights}
    straight = plan(chosen, **keys)
    steps = read_joined(straight, cut + 15, 0)
    again = plan(chosen, straight.dumps(cut), cut, **keys)

    assert read_joined(again, 15, n_ahead) == steps[cut:]
    assert [again.dumps(cut + step) for step in range(16)] == [straight.dumps(cut + step) for step in range(16)]
    rows = [row for step in steps for packs in step for pack in packs for row in pack]
    # The first one is alone.
    assert sum(other is None for _, other in rows) <= 1
    assert all(number != other != 7 for number, other in rows)
    assert shuffle or weights != "alone" or {*rows} <= {(0, None), (0, 13), (8, 6), *((n + 1, n) for n in range(13))}


@pytest.mark.parametrize("rank", [0, 1])
def test_joined_rows_of_ranks(paths: list[str], rank: int) -> None:
    """A rank reads its own rows with the others that one rank has, behind the plan; rows are forgotten in time."""
    alone = plan(paths, **{**KTO, "train.batch_size": 2})
    expected = read_joined(alone, 400, 0)
    steps = plan(paths, rank=rank, n_ranks=2, **{**KTO, "train.batch_size": 1})
    planned = steps.plan((joined_to(steps, index) for index in steps.indices()), lambda row: 3 + row[0] % 9)
    for (whole,), (packs,) in zip(expected, planned, strict=False):
        assert [[joined_to(steps, index) for index, _ in pack] for pack in packs[rank::2]] == whole[rank::2]

    assert len(steps.drawn) < sum(len(pack) for step in expected for packs in step for pack in packs) / 2


def test_other_states_are_refused(paths: list[str]) -> None:
    """A state of other rows, or one that is none."""
    steps = plan(paths)
    read(steps, 3)
    position = steps.progress_at(3).dumps()
    for told, message in (
        ("{}", "which is not understood; begin anew"),
        ("[1]", "which is not understood; begin anew"),
    ):
        with pytest.raises(CheckpointError, match=message):
            plan(paths, told, 3)
    with pytest.raises(CheckpointError, match=r"data\.sources\[1\]\.path: its files have other names than then"):
        plan([paths[0], paths[0]], position, 3)

    assert attrs.asdict(steps.progress_at(3).waiting[0])
