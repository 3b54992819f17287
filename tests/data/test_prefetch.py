"""Working ahead: the results of the plain loop in its order, whatever the threads do; none is left behind."""

import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import FAMILIES
from tests.training import picture, rows_for
from vlora import fit, models, parse_recipe
from vlora.data.format.samples import format_sample
from vlora.data.prefetch import Prefetcher, WorkerPool, count_workers
from vlora.events import Event, Skipped, StepReport
from vlora.types import Example, Sample

CheckpointFactory = Callable[[str], Path]


def alive() -> list[threading.Thread]:
    """List the threads that work ahead."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("vlora")]


def await_begun(results: Prefetcher[Any, Any]) -> None:
    """Wait until everything that was handed to the threads is done."""
    while not all(future.done() for future in results._begun):
        time.sleep(0.001)


@given(st.integers(0, 4), st.integers(1, 6), st.lists(st.integers(0, 3), max_size=30))
def test_results_come_in_order(n_workers: int, n_ahead: int, delays: list[int]) -> None:
    """As the items do, however long each takes, and never more than `n_ahead` of them are begun before their turn."""
    begun, asked, lock = 0, 0, threading.Lock()
    most = 0

    def work(item: tuple[int, int]) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - asked)
        time.sleep(item[1] / 10_000)
        return item[0]

    found = []
    with WorkerPool(n_workers) as workers:
        results = workers.map(work, enumerate(delays), n_ahead)
        for result in results:
            found.append(result)
            with lock:
                asked += 1

    assert found == list(range(len(delays)))
    # The one that is asked for is no longer ahead, but not counted as asked for yet.
    assert most <= n_ahead + 1
    assert not alive()


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_errors_come_in_their_turn(n_workers: int) -> None:
    """The results before an error are given first; the threads end with the context."""

    def work(item: int) -> float:
        return 1 / (item - 3)

    found: list[float] = []
    with pytest.raises(ZeroDivisionError), WorkerPool(n_workers) as workers:
        found.extend(workers.map(work, range(10), 4))

    assert len(found) == 3
    assert not alive()


@pytest.mark.parametrize("n_workers", [0, 1, 3])
@pytest.mark.parametrize("is_next", [False, True])
def test_errors_of_items_come_in_their_turn(n_workers: int, is_next: bool) -> None:
    """An item that cannot be drawn ends what comes after it, not what came before."""

    def items() -> Iterator[int]:
        yield from range(3)
        msg = "no fourth item"
        raise OSError(msg)

    found: list[int] = []
    with pytest.raises(OSError, match="no fourth item"), WorkerPool(n_workers) as workers:
        found.extend(workers.map(int, items(), 8, is_next=is_next))

    assert found == [0, 1, 2]
    assert not alive()


def test_what_is_needed_next_does_not_queue() -> None:
    """Behind work that is far ahead: it has a thread of its own, which is held as the others are."""
    begin = threading.Event()
    with WorkerPool(1) as workers:
        far = workers.submit(lambda _: begin.wait(), 0)
        assert workers.submit(lambda item: item + 1, 1, is_next=True).result(timeout=100) == 2
        workers.hold()
        held = workers.submit(lambda item: item + 1, 2, is_next=True)
        assert not held.done()
        assert workers.wait(held) == 3
        begin.set()
        workers.release()
        assert far.result(timeout=100)


def test_threads_begin_together() -> None:
    """Nothing waits for the first result: as many items are begun at once as there are threads."""
    together = threading.Barrier(3)

    def work(item: int) -> int:
        together.wait(timeout=100)
        return item

    with WorkerPool(3) as workers:
        assert list(workers.map(work, range(6), 6)) == list(range(6))


def test_only_the_first_batch_is_waited_for() -> None:
    """While the device works on one batch, the rows of the next ones are encoded: they are there when asked for."""
    batch_size, n_batches = 4, 5

    def encode(row: int) -> int:
        time.sleep(0.002)
        return row

    with WorkerPool(2) as workers:
        rows = workers.map(encode, range(batch_size * n_batches), 2 * batch_size)
        waits = []
        for number in range(n_batches):
            assert [next(rows) for _ in range(batch_size)] == list(
                range(batch_size * number, batch_size * (number + 1))
            )
            waits.append(rows.n_waits)
            # A step that takes as long as the encoding of a batch: two batches are encoded by its end, if there are.
            await_begun(rows)

    assert waits[0] > 0
    assert waits[-1] == waits[0]


def test_dropping_a_run_ends_its_threads() -> None:
    """Whoever stops iterating leaves no thread and no work behind."""
    done: list[int] = []

    def note(item: int) -> int:
        done.append(item)
        return item

    def results() -> Generator[int]:
        with WorkerPool(2) as workers:
            yield from workers.map(note, range(1000), 3)

    running = results()
    assert next(running) == 0
    assert alive()
    running.close()
    n_done = len(done)

    assert not alive()
    assert n_done <= 1 + 3 + 1
    time.sleep(0.01)
    assert len(done) == n_done


def same(first: Example, second: Example) -> bool:
    """Whether two encoded rows are the same to the bit."""

    def equal(one: object, other: object) -> bool:
        if isinstance(one, (list, tuple)):
            return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(equal, one, other))
        return np.array_equal(np.asarray(one), np.asarray(other))

    return (
        equal(first.tokens, second.tokens)
        and equal(first.supervised, second.supervised)
        and equal(first.placeholders, second.placeholders)
        and first.inputs.keys() == second.inputs.keys()
        and all(equal(value, second.inputs[name]) for name, value in first.inputs.items())
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_encoding_in_threads_changes_nothing(family: str, encoder: Callable[..., models.Encoder]) -> None:
    """Every family's processor and tokenizer give the same rows to four threads at once."""
    encode = encoder(family, train_on_completions=True)
    samples: list[Sample] = [
        format_sample(row, f"row {number}") for number, row in enumerate(rows_for(encode.family) * 4)
    ]
    expected = [encode(sample) for sample in samples[: len(samples) // 4]] * 4
    with WorkerPool(4) as workers:
        found = list(workers.map(encode, samples, len(samples)))

    assert [row.source for row in found] == [sample.source for sample in samples]
    assert all(same(row, attrs.evolve(other, source=row.source)) for row, other in zip(found, expected, strict=True))


def run_with(workers: int, folder: Path, model: Path, rows: Path) -> list[Event]:
    """Train a few steps on rows of which one is broken."""
    keys = {
        "model.path": str(model),
        "data.path": str(rows),
        "data.on_bad_row": "skip",
        "data.train_on_completions": True,
        "data.workers": workers,
        "data.valid_path": str(rows),
        "train.batch_size": 2,
        "train.epochs": 2,
        "train.gradient_accumulation_steps": 2,
        "output.path": str(folder),
    }
    return list(fit(parse_recipe("", keys)))


def test_runs_do_not_depend_on_workers(checkpoint: CheckpointFactory, tmp_path: Path) -> None:
    """Same losses, same bad rows, with and without threads."""
    lines = []
    for number in range(7):
        picture(32 + 16 * (number % 2), 32, number).save(tmp_path / f"{number}.png")
        image = f"{number}.png" if number != 4 else "missing.png"
        lines.append(json.dumps({"question": "What is it?", "answer": f"it is {number}", "image": image}))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines))
    found = []
    for workers in (0, 3):
        events = run_with(workers, tmp_path / str(workers), checkpoint("qwen3_vl"), rows)
        losses = [event.loss for event in events if isinstance(event, StepReport)]
        found.append((losses, [event.reason for event in events if isinstance(event, Skipped)]))

    assert found[0] == found[1]
    assert len(found[0][0]) == 4
    assert not alive()


@pytest.mark.parametrize("cores", [1, 2, 6, 16, 128])
def test_half_of_the_cores_work_ahead(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But two threads at least and eight at most; a number that is given holds, 0 too."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)

    assert count_workers(None) == {1: 2, 2: 2, 6: 3, 16: 8, 128: 8}[cores]
    assert count_workers(0) == 0
    assert count_workers(20) == 20


def test_threads_take_short_turns_while_there_are_workers() -> None:
    """The step's thread waits less for the interpreter; afterwards everything is as before."""
    before = sys.getswitchinterval()
    with WorkerPool(2):
        assert sys.getswitchinterval() < before / 2
    assert sys.getswitchinterval() == before
    with WorkerPool(0):
        assert sys.getswitchinterval() == before


def test_held_workers_begin_nothing() -> None:
    """But what is waited for is made, and afterwards they go on."""
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    with WorkerPool(2) as workers:
        results = workers.map(work, range(8), 3)
        assert next(results) == 0
        # No thread is about to begin anything when they are held.
        await_begun(results)
        workers.hold()
        assert [next(results) for _ in range(3)] == [1, 2, 3]
        time.sleep(0.05)
        assert sorted(begun) == [0, 1, 2, 3]
        assert next(results) == 4
        workers.release()
        assert list(results) == [5, 6, 7]
    assert sorted(begun) == list(range(8))


def test_held_workers_can_be_left() -> None:
    """A run that ends while they are held waits for none of them."""
    with WorkerPool(2) as workers:
        results = workers.map(lambda item: item, range(100), 50)
        next(results)
        workers.hold()
