"""Sources of batches: where a run is in them, and how many steps it has."""

import numpy as np

from vlora.data.batch_source import BatchSource, EndedEpoch, PlannedSource, StreamSource
from vlora.data.packing import PackedSource, PackedSteps, Progress
from vlora.types import Example


def make_packed(*, n_steps: int | None = None, n_epochs: int | None = None) -> PackedSource:
    """Make a source of five rows, of which two are packed into each row."""
    packed = PackedSteps(
        n_rows=5, capacity=32, batch_size=1, accumulation=1, seed=0, shuffle=False, n_steps=n_steps, n_epochs=n_epochs
    )
    places = np.arange(17, dtype=np.int32)
    rows = ((Example(f"row {number}", places, places > 3, places < 0),) for number in packed.indices())
    return PackedSource(batches=packed.steps(rows), packed=packed)


def describe(source: BatchSource) -> list[tuple[int, int, str]]:
    """Take all steps; give microbatches, the run's steps and the position behind each."""
    return [(len(step), source.n_steps(number), source.position(number)) for number, step in enumerate(source, start=1)]


def test_a_planned_source_is_known_by_its_step() -> None:
    """Its number of steps is known before, and a training state has nothing to remember."""
    source = PlannedSource(batches=iter([[], []]), total=2, per_epoch=1)

    assert not source.is_estimated
    assert source.n_steps(0) == 2
    assert describe(source) == [(0, 2, ""), (0, 2, "")]


def test_epochs_are_counted() -> None:
    """Of rows that are known by their number by the steps of an epoch, of packed ones as they are packed."""
    planned, packed = PlannedSource(batches=iter([]), total=5, per_epoch=2), make_packed(n_epochs=2)
    found = [(packed.packed.progress_at(step).epoch, packed.n_epochs(step)) for step, _ in enumerate(packed, start=1)]

    assert [planned.n_epochs(step) for step in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [epoch for epoch, _ in found] == [n_epochs for _, n_epochs in found] == [0, 0, 1, 1, 1, 2]


def test_a_packed_source_remembers_its_rows() -> None:
    """Epochs end it: how many steps they take shows on the way, and how far the rows are read is remembered."""
    source = make_packed(n_epochs=1)
    assert source.is_estimated
    found = describe(source)

    assert [n_steps for _, n_steps, _ in found][-1] == len(found) == 3
    assert [Progress.loads(position) for _, _, position in found][-1] == Progress(epoch=1)
    assert Progress.loads(found[0][2]).n_read > 2
    assert not make_packed(n_steps=2).is_estimated
    assert [n_steps for _, n_steps, _ in describe(make_packed(n_steps=2))] == [2, 2]


def test_a_streamed_source_asks_its_steps() -> None:
    """They know where the streams are read, and which of their epochs have ended."""

    class Steps:
        n_steps = 2

        def ended(self, step: int) -> tuple[EndedEpoch, ...]:
            return (EndedEpoch(epoch=1, n_rows=4),) if step == 2 else ()

        def dumps(self, step: int) -> str:
            return f"behind {step}"

    source = StreamSource(batches=iter([[], []]), steps=Steps())

    assert not source.is_estimated
    assert describe(source) == [(0, 2, "behind 1"), (0, 2, "behind 2")]
    assert (source.ended(1), source.ended(2)[0].n_rows) == ((), 4)
    assert source.n_epochs(2) == 0
