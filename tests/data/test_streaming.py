"""Steps of streamed rows: each row once an epoch, exact restarts at any step, shares of ranks, changed files."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.streams import open_files, write_csv, write_lines, write_parquet, write_shards
from vlora.data.readers.stream import DrawnTable
from vlora.data.streaming import StreamProgress, StreamSource, StreamSteps
from vlora.errors import CheckpointError, RecipeError

COUNTS = (5, 0, 1, 7, 4)
N_ROWS = sum(COUNTS)

FILES = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write files of several lengths, one of them empty."""
    return write_lines(tmp_path_factory.mktemp("stream"), COUNTS)


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_shards])
def test_all_kinds_of_files_go_on_at_any_step(tmp_path: Path, write: Callable[[Path, Sequence[int]], str]) -> None:
    """With the same rows as lines of JSON."""
    other, path = write_lines(tmp_path / "lines", COUNTS), write(tmp_path / "files", COUNTS)
    straight = plan(path)
    expected = read(straight, 14)

    assert flat(expected) == flat(read(plan(other), 14))
    for cut in (1, 4, 9, 11):
        position = StreamSource(batches=iter(()), steps=straight).position(cut)
        again = plan(path, first_step=cut)
        again.start = StreamProgress.loads(position, again.table.stream, allows_changes=False)
        assert read(again, 3) == expected[cut : cut + 3]


def plan(path: str, **keys: Any) -> StreamSteps:
    """Plan steps of a stream."""
    given = {"batch_size": 2, "accumulation": 1, "seed": 0, "shuffle": True, "buffer_size": 4, "n_steps": 1000}
    given |= {"n_ahead": 8, "own_batch_size": keys.get("batch_size", 2)} | keys
    return StreamSteps(table=DrawnTable(open_files(path)), **given)  # type: ignore[arg-type]


def read(steps: StreamSteps, n: int) -> list[list[list[str]]]:
    """Read the answers of the next steps."""
    return [
        [[steps.table[index]["answer"] for index in batch] for batch in step]
        for step in itertools.islice(steps.steps(), n)
    ]


def flat(steps: list[list[list[str]]]) -> list[str]:
    """List the rows of steps."""
    return [row for step in steps for batch in step for row in batch]


@FILES
@given(
    batch_size=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    buffer_size=st.integers(1, 30),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_every_row_comes_once_an_epoch(
    path: str, batch_size: int, accumulation: int, buffer_size: int, seed: int, shuffle: bool
) -> None:
    """No step crosses epochs; the last step of one is short, and every epoch has another order."""
    keys = {"batch_size": batch_size, "accumulation": accumulation, "buffer_size": buffer_size, "seed": seed}
    per_epoch = -(-N_ROWS // (batch_size * accumulation))
    steps = read(plan(path, shuffle=shuffle, **keys), 2 * per_epoch)
    first, second = flat(steps[:per_epoch]), flat(steps[per_epoch:])

    assert sorted(first) == sorted(second) == sorted(f"It is {number}." for number in range(N_ROWS))
    assert all(len(batch) <= batch_size for step in steps for batch in step)
    assert [len(flat([step])) for step in steps[: per_epoch - 1]] == [batch_size * accumulation] * (per_epoch - 1)
    if not shuffle:
        assert first == second == [f"It is {number}." for number in range(N_ROWS)]


@FILES
@given(
    cut=st.integers(0, 30),
    batch_size=st.integers(1, 4),
    buffer_size=st.integers(1, 30),
    n_ranks=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_a_stream_goes_on_at_any_step(
    path: str, cut: int, batch_size: int, buffer_size: int, n_ranks: int, shuffle: bool
) -> None:
    """What a step behind the read one has planned is not in the state; on each rank the rest is the same."""
    keys: dict[str, Any] = {"batch_size": batch_size * n_ranks, "own_batch_size": batch_size, "n_ranks": n_ranks}
    keys |= {"buffer_size": buffer_size, "shuffle": shuffle}
    for rank in range(n_ranks):
        straight = plan(path, rank=rank, **keys)
        expected = read(straight, cut + 12)
        position = StreamSource(batches=iter(()), steps=straight).position(cut)
        again = plan(path, rank=rank, first_step=cut, **keys)
        again.start = StreamProgress.loads(position, again.table.stream, allows_changes=False)

        assert read(again, 12) == expected[cut:]


@FILES
@given(batch_size=st.integers(1, 4), n_ranks=st.integers(2, 4), accumulation=st.integers(1, 2), seed=st.integers(0, 9))
def test_ranks_share_each_step(path: str, batch_size: int, n_ranks: int, accumulation: int, seed: int) -> None:
    """Of all ranks together the rows of a step are those of one rank with as many times the batch."""
    keys: dict[str, Any] = {"batch_size": batch_size * n_ranks, "accumulation": accumulation, "seed": seed}
    alone = read(plan(path, **keys), 20)
    shared = [
        read(plan(path, rank=rank, n_ranks=n_ranks, **keys | {"own_batch_size": batch_size}), 20)
        for rank in range(n_ranks)
    ]

    for step, rows in enumerate(alone):
        assert sorted(flat([rows])) == sorted(row for rank in shared for row in flat([rank[step]]))
    assert all(len(batch) <= batch_size for rank in shared for step in rank for batch in step)


def test_rows_of_old_steps_are_forgotten(path: str) -> None:
    """What can be read by number does not grow with the run, and neither does what is known of steps."""
    steps = plan(path)
    for _ in itertools.islice(steps.steps(), 600):
        pass

    assert len(steps.table) < 600
    with pytest.raises(KeyError):
        steps.progress_at(1)
    assert steps.progress_at(599).n_given


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file that is new, and one that has changed of which rows wait; the latter may be allowed."""
    path = write_lines(tmp_path, (3, 3))
    steps = plan(path, buffer_size=6)
    read(steps, 1)
    position = StreamSource(batches=iter(()), steps=steps).position(1)
    write_lines(tmp_path, (4, 3))
    with pytest.raises(CheckpointError, match=r"rows-0\.jsonl has changed since.*allow_changed_rows=true"):
        StreamProgress.loads(position, open_files(path), allows_changes=False)
    allowed = StreamProgress.loads(position, open_files(path), allows_changes=True)
    write_lines(tmp_path, (3, 3, 1))
    with pytest.raises(CheckpointError, match="other names than then, or others were added"):
        StreamProgress.loads(position, open_files(path), allows_changes=True)
    with pytest.raises(CheckpointError, match="which is not understood"):
        StreamProgress.loads('{"epoch": 1}', open_files(path), allows_changes=True)

    assert allowed == steps.progress_at(1)


def test_an_epoch_without_rows_ends_the_run(tmp_path: Path) -> None:
    """Files that were emptied meanwhile do not make a run turn for ever."""
    path = write_lines(tmp_path, (0, 0))
    with pytest.raises(RecipeError, match=r"data\.path: the stream has no rows any more"):
        read(plan(path), 1)
