"""Steps of streamed rows: each row once an epoch, exact restarts at any step, shares of ranks, changed files."""

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.streams import open_files, write_csv, write_lines, write_parquet, write_shards
from vlora.data import streaming
from vlora.data.batch_source import StreamSource
from vlora.data.drawn_rows import DrawnRows, draw_rows
from vlora.data.linking import LinkedRow
from vlora.data.mixed_rows import mix_rows
from vlora.data.mixture import own_seed
from vlora.data.rows import RowDataset
from vlora.data.stream_cursor import StreamCursor, StreamProgress
from vlora.data.streaming import StreamSteps, load_progress
from vlora.data.turns import EvenTurns, Turns, TurnTaking
from vlora.errors import CheckpointError, RecipeError

COUNTS = (5, 0, 1, 7, 4)
N_ROWS = sum(COUNTS)

FILES = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
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
        assert read(plan(path, first_step=cut, position=position), 3) == expected[cut : cut + 3]


def draw(*paths: str, weights: Sequence[float] | None = None) -> DrawnRows:
    """Let the rows of streams be drawn."""
    each = [RowDataset(name=path, table=[], indices=(), stream=open_files(path)) for path in paths]
    return draw_rows(each[0] if len(each) == 1 else mix_rows("all", each, weights=weights))


def load(position: str, *paths: str, allows_changes: bool = False) -> tuple[list[StreamProgress], int]:
    """Read how far streams were read, and how much of a window was used."""
    weights = None if len(paths) == 1 else [1] * len(paths)
    return load_progress(position, draw(*paths, weights=weights), allows_changes=allows_changes)


def plan(*paths: str, weights: tuple[float, ...] | None = None, position: str = "", **keys: Any) -> StreamSteps:
    """Plan steps of a stream, or of a mixture of several, with weights or without."""
    seed, shuffle = keys.pop("seed", 0), keys.pop("shuffle", True)
    drawn, size = draw(*paths, weights=weights), keys.pop("buffer_size", 4)
    starts, n_done = load(position, *paths)
    if keys.pop("is_grouped", False):
        keys["measure"] = lambda indices: (len_of(drawn.rows[index].turns[-1].text) for index in indices)
    cursors = [
        StreamCursor(
            stream=stream,
            seed=own_seed(seed, place) if drawn.is_mixture else seed,
            shuffle=shuffle,
            buffer_size=size,
            start=start,
        )
        for place, (stream, start) in enumerate(zip(drawn.streams, starts, strict=True))
    ]
    given: dict[str, Any] = {"batch_size": 2, "accumulation": 1, "n_steps": 1000}
    given |= {"n_ahead": 8, "own_batch_size": keys.get("batch_size", 2)} | keys
    turns: TurnTaking | None = EvenTurns(seed=seed, shuffle=shuffle) if drawn.is_mixture else None
    if weights is not None:
        turns = Turns(weights=weights, seed=seed, shuffle=shuffle)
    return StreamSteps(drawn=drawn, cursors=cursors, turns=turns, n_done=n_done, seed=seed, **given)


def len_of(answer: str) -> int:
    """Give a row a length that its number does not tell."""
    return int(answer.removeprefix("It is ").rstrip(".")) * 7 % 11


def read(steps: StreamSteps, n: int) -> list[list[list[str]]]:
    """Read the answers of the next steps."""
    rows = steps.drawn.rows
    return [
        [[rows[operator.index(row)].turns[-1].text for row in batch] for batch in step]
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
    keys: dict[str, Any] = {
        "batch_size": batch_size,
        "accumulation": accumulation,
        "buffer_size": buffer_size,
        "seed": seed,
    }
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
        again = plan(path, rank=rank, first_step=cut, position=position, **keys)

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
    own: dict[str, Any] = keys | {"own_batch_size": batch_size, "is_even": True}
    even = [read(plan(path, rank=rank, n_ranks=n_ranks, **own), 20) for rank in range(n_ranks)]
    assert len({tuple(map(len, steps)) for steps in even}) == 1
    assert [[list(filter(None, step)) for step in steps] for steps in even] == shared


@FILES
@given(
    batch_size=st.integers(1, 3), n_ranks=st.integers(2, 3), accumulation=st.integers(1, 2), is_grouped=st.booleans()
)
def test_linked_rows_of_ranks_know_those_before_them(
    path: str, batch_size: int, n_ranks: int, accumulation: int, is_grouped: bool
) -> None:
    """As one rank has them; all ranks have as many microbatches, and each row can be read where it is needed."""
    keys: dict[str, Any] = {"accumulation": accumulation, "is_grouped": is_grouped}
    keys["batch_size"] = batch_size * n_ranks
    expected = [
        Counter(
            (row, batch[place - 1] if len(batch) > 1 else None) for batch in step for place, row in enumerate(batch)
        )
        for step in read(plan(path, **keys), 9)
    ]

    found, lengths = [Counter[tuple[str, str | None]]() for _ in expected], []
    for rank in range(n_ranks):
        own = plan(
            path, rank=rank, n_ranks=n_ranks, is_linked=True, is_even=True, **keys | {"own_batch_size": batch_size}
        )
        steps = list(itertools.islice(own.steps(), len(expected)))
        lengths.append(list(map(len, steps)))
        for counts, step in zip(found, steps, strict=True):
            for row in itertools.chain.from_iterable(step):
                assert isinstance(row, LinkedRow)
                texts = [own.drawn.rows[index].turns[-1].text for index in (row.index, *row.before)]
                counts[texts[0], texts[1] if row.before else None] += 1
    assert found == expected
    assert all(own_lengths == lengths[0] for own_lengths in lengths)


def test_rows_of_old_steps_are_forgotten(path: str) -> None:
    """What can be read by number does not grow with the run, and neither does what is known of steps."""
    steps = plan(path)
    for _ in itertools.islice(steps.steps(), 600):
        pass

    assert len(steps.drawn) < 600
    assert len(steps.drawn.rows.table) == len(steps.drawn)
    with pytest.raises(KeyError):
        steps.progress_at(1)
    assert steps.progress_at(599)[0].n_given


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file that is new, and one that has changed of which rows wait; the latter may be allowed."""
    path = write_lines(tmp_path, (3, 3))
    steps = plan(path, buffer_size=6)
    read(steps, 1)
    position = StreamSource(batches=iter(()), steps=steps).position(1)
    write_lines(tmp_path, (4, 3))
    with pytest.raises(CheckpointError, match=r"rows-0\.jsonl has changed since.*allow_changed_rows=true"):
        load(position, path)
    allowed = load(position, path, allows_changes=True)
    write_lines(tmp_path, (3, 3, 1))
    with pytest.raises(CheckpointError, match="other names than then, or others were added"):
        load(position, path, allows_changes=True)
    with pytest.raises(CheckpointError, match="which is not understood; begin anew"):
        load('{"epoch": 1}', path)

    assert allowed == (steps.progress_at(1), 0)


def test_an_epoch_without_rows_ends_the_run(tmp_path: Path) -> None:
    """Files that were emptied meanwhile do not make a run turn for ever."""
    path = write_lines(tmp_path, (0, 0))
    with pytest.raises(RecipeError, match=r"data\.path: the stream has no rows any more"):
        read(plan(path), 1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write three sources of several files, whose rows are of different numbers; one source is very small."""
    folder, first = tmp_path_factory.mktemp("sources"), 0
    found = []
    for place, counts in enumerate(((5, 0, 9), (2,), (7, 4))):
        found.append(write_lines(folder / str(place), counts, first=first))
        first += 100
    return found


SIZES = (14, 2, 11)


@FILES
@given(
    weights=st.tuples(*[st.floats(0.05, 3)] * 3),
    batch_size=st.integers(1, 5),
    buffer_size=st.integers(1, 30),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_sources_have_shares_and_epochs_of_their_own(
    paths: list[str], weights: tuple[float, float, float], batch_size: int, buffer_size: int, seed: int, shuffle: bool
) -> None:
    """All steps are whole; no row of a source comes again before all of its rows have come, and its epochs are told."""
    steps = plan(*paths, weights=weights, batch_size=batch_size, buffer_size=buffer_size, seed=seed, shuffle=shuffle)
    found = read(steps, 60)
    numbers = [int(row.removeprefix("It is ").rstrip(".")) for row in flat(found)]
    ended = [end for step in range(1, 61) for end in steps.ended(step)]

    assert {len(batch) for step in found for batch in step} == {batch_size}
    for source, (size, weight) in enumerate(zip(SIZES, weights, strict=True)):
        own, share = [number % 100 for number in numbers if number // 100 == source], weight / sum(weights)
        assert abs(len(own) - share * len(numbers)) < 3 + 3 * share
        epochs = [own[start : start + size] for start in range(0, len(own), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs[: len(own) // size])
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert shuffle or all(epoch == list(range(len(epoch))) for epoch in epochs)
        told = [(end.epoch, end.n_rows) for end in ended if end.source == source]
        assert told == [(number + 1, size) for number in range(len(own) // size)]


@FILES
@given(batch_size=st.integers(1, 5), buffer_size=st.integers(1, 30), seed=st.integers(0, 5), shuffle=st.booleans())
def test_without_weights_every_row_of_all_sources_comes_once(
    paths: list[str], batch_size: int, buffer_size: int, seed: int, shuffle: bool
) -> None:
    """In an epoch of the mixture, which is over for all sources together; all steps are whole."""
    steps = plan(*paths, batch_size=batch_size, buffer_size=buffer_size, seed=seed, shuffle=shuffle)
    found = read(steps, 60)
    numbers = [int(row.removeprefix("It is ").rstrip(".")) for row in flat(found)]
    ended = [(end.source, end.epoch, end.n_rows) for step in range(1, 61) for end in steps.ended(step)]

    assert {len(batch) for step in found for batch in step} == {batch_size}
    whole = sorted(100 * source + number for source, size in enumerate(SIZES) for number in range(size))
    epochs = [numbers[start : start + len(whole)] for start in range(0, len(numbers), len(whole))]
    assert all(sorted(epoch) == whole for epoch in epochs[: len(numbers) // len(whole)])
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    # As long as the smallest source has rows, all give as many.
    assert all(sorted(number // 100 for number in epoch[:6]) == [0, 0, 1, 1, 2, 2] for epoch in epochs if epoch[5:])
    assert ended == [(source, 1 + n // 3, SIZES[source]) for n, source in enumerate([1, 2, 0] * 15)][: len(ended)]
    assert len(ended) >= 3 * (len(numbers) // len(whole))


@FILES
@given(
    cut=st.integers(0, 40),
    weights=st.none() | st.tuples(*[st.floats(0.05, 3)] * 3),
    batch_size=st.integers(1, 3),
    buffer_size=st.integers(1, 12),
    n_ranks=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_a_mixture_goes_on_at_any_step(
    paths: list[str],
    cut: int,
    weights: tuple[float, float, float] | None,
    batch_size: int,
    buffer_size: int,
    n_ranks: int,
    shuffle: bool,
) -> None:
    """On each rank with the same rows; of all ranks together they are those of one with as many times the batch."""
    keys: dict[str, Any] = {"batch_size": batch_size * n_ranks, "buffer_size": buffer_size, "shuffle": shuffle}
    alone = [Counter(flat([step])) for step in read(plan(*paths, weights=weights, **keys), cut + 12)]
    shared = [Counter[str]() for _ in alone]
    for rank in range(n_ranks):
        own: dict[str, Any] = {**keys, "rank": rank, "n_ranks": n_ranks, "own_batch_size": batch_size}
        straight = plan(*paths, weights=weights, **own)
        expected = read(straight, cut + 12)
        position = StreamSource(batches=iter(()), steps=straight).position(cut)
        again = plan(*paths, weights=weights, first_step=cut, position=position, **own)
        for counts, step in zip(shared, expected, strict=True):
            counts.update(flat([step]))

        assert read(again, 12) == expected[cut:]
        assert [again.dumps(cut + step) for step in range(13)] == [straight.dumps(cut + step) for step in range(13)]
    assert shared == alone


def test_other_sources_are_refused(paths: list[str]) -> None:
    """The key of the source is named; a state of another number of sources is not understood."""
    steps = plan(*paths, weights=(1, 1, 1))
    read(steps, 2)
    position = steps.dumps(2)
    with pytest.raises(CheckpointError, match=r"data\.sources\[1\]\.path: its files have other names than then"):
        load(position, paths[0], paths[2], paths[2])
    with pytest.raises(CheckpointError, match="which is not understood; begin anew"):
        load(position, *paths[:2])
    with pytest.raises(CheckpointError, match="which is not understood; begin anew"):
        load(position, paths[0])


@FILES
@given(
    cut=st.integers(0, 30),
    n_window=st.integers(1, 6),
    batch_size=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    n_ranks=st.integers(1, 2),
    is_mixed=st.booleans(),
)
def test_grouped_rows_go_on_within_their_window(
    paths: list[str], cut: int, n_window: int, batch_size: int, accumulation: int, n_ranks: int, is_mixed: bool
) -> None:
    """Each row comes once an epoch, with rows of like length; ranks share batches, and each goes on at any step."""
    keys: dict[str, Any] = {"batch_size": batch_size * n_ranks, "accumulation": accumulation, "is_grouped": True}
    chosen, weights = (paths, (2.0, 1.0, 1.0)) if is_mixed else (paths[:1], None)
    shared: list[Counter[str]] = [Counter() for _ in range(cut + 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "WINDOW_BATCHES", n_window)
        alone = read(plan(*chosen, weights=weights, **keys), cut + 12)
        for rank in range(n_ranks):
            own: dict[str, Any] = {**keys, "rank": rank, "n_ranks": n_ranks, "own_batch_size": batch_size}
            straight = plan(*chosen, weights=weights, **own)
            expected = read(straight, cut + 12)
            for counts, step in zip(shared, expected, strict=True):
                counts.update(flat([step]))
            again = plan(*chosen, weights=weights, first_step=cut, position=straight.dumps(cut), **own)

            assert read(again, 12) == expected[cut:]
            assert [again.dumps(cut + step) for step in range(13)] == [straight.dumps(cut + step) for step in range(13)]
            assert [again.ended(cut + step) for step in range(1, 13)] == [
                straight.ended(cut + step) for step in range(1, 13)
            ]
            assert len(straight.drawn) <= sum(map(len, flat_rows(expected))) + 2 * n_window * batch_size * n_ranks
    assert shared == [Counter(flat([step])) for step in alone]
    rows = flat(alone)
    if not is_mixed:
        assert all(sorted(rows[at : at + 14]) == sorted(set(rows[at : at + 14])) for at in range(0, len(rows), 14))


def flat_rows(steps: list[list[list[str]]]) -> list[list[str]]:
    """List the microbatches of steps."""
    return [batch for step in steps for batch in step]


def test_grouped_batches_have_rows_of_like_length(paths: list[str]) -> None:
    """Those of a window, which is sorted; another seed and another window have other orders of batches."""
    steps = read(plan(paths[0], batch_size=2, is_grouped=True, shuffle=False), 14)
    orders = [
        [sorted(map(len_of, batch), reverse=True) for step in steps[start : start + 7] for batch in step]
        for start in (0, 7)
    ]

    for order in orders:
        whole = sorted((length for batch in order for length in batch), reverse=True)
        assert sorted(order, reverse=True) == [whole[at : at + 2] for at in range(0, 14, 2)]
    assert orders[0] != orders[1]
