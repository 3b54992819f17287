"""Packing: several rows of data in one row of a batch, planned while they are read. Pure.

How long a row is shows when it is encoded. So rows are taken in the epoch's order, as many as about two microbatches
hold; the fullest packs that can be made of them are the next microbatch, and what is left waits for more rows. No pass
over the data comes before the first step, every row is learned once per epoch, and what a run has to remember to go on
exactly is small: how far it has read, and which rows wait.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from ..errors import CheckpointError
from ..recipe.schema import Recipe
from ..types import Batch, Example
from .batch_source import EndedEpoch
from .epoch_order import EpochOrder, plain_order
from .pack_plan import Item, Pack, collate_steps
from .sampler import sort_windows

LOOKAHEAD = 2
"""Microbatches' places that the rows at hand fill before one is made of them: with more, packs are hardly fuller."""

REMEMBERED = 64
"""Steps of which is known how far the run had come behind them: batches may be made ahead of the step in hand."""


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Divide rows into packs: the longest first, each into the first pack that has room (first-fit decreasing).

    Args:
        lengths: Places that each row takes.
        capacity: Places of a pack; a longer row is a pack of its own.

    Returns:
        Row indices, pack by pack, fullest first; in a pack, and among equals, in the rows' order.
    """
    packs: list[list[int]] = []
    used: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        place = next((place for place, taken in enumerate(used) if taken + lengths[row] <= capacity), len(packs))
        if place == len(packs):
            packs.append([])
            used.append(0)
        packs[place].append(row)
        used[place] += lengths[row]
    order = sorted(range(len(packs)), key=lambda place: (-used[place], min(packs[place])))
    return [sorted(packs[place]) for place in order]


@attrs.frozen(kw_only=True)
class Progress:
    """The progress of a run after a step.

    Attributes:
        epoch: Epochs that are over.
        n_read: Rows of this epoch's order that were read.
        waiting: Those of them that wait to be learned, by number, in the order in which they were read.
    """

    epoch: int = 0
    n_read: int = 0
    waiting: tuple[int, ...] = ()

    def dumps(self) -> str:
        """Write it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Progress":
        """Read what `dumps` wrote.

        Raises:
            CheckpointError: It is something else.
        """
        try:
            found = json.loads(text)
            return cls(
                epoch=int(found["epoch"]),
                n_read=int(found["n_read"]),
                waiting=tuple(int(index) for index in found["waiting"]),
            )
        except (ValueError, KeyError, TypeError):
            msg = (
                f"the training state says of its packed rows {text!r}, which is not understood; begin anew without "
                "--resume"
            )
            raise CheckpointError(msg) from None


@attrs.define(eq=False, kw_only=True)
class PackedSteps:
    """The steps of a run whose rows are packed. `indices` says what to read, `steps` makes batches of it.

    Attributes:
        n_rows: Rows of the data set, at least 1.
        capacity: Places of a pack.
        batch_size: Packs of a microbatch.
        accumulation: Microbatches of a step.
        seed: The run's seed.
        shuffle: Draw a new order every epoch.
        n_steps: Steps of the run; None where `n_epochs` ends it.
        n_epochs: Epochs of the run, if `n_steps` is None.
        first_step: Steps done before.
        start: How far the run had come then.
        order: Gives the order of an epoch instead of `seed` and `shuffle`, as a mixture with weights does.
    """

    n_rows: int
    capacity: int
    batch_size: int
    accumulation: int
    seed: int
    shuffle: bool
    n_steps: int | None = None
    n_epochs: int | None = None
    first_step: int = 0
    start: Progress = attrs.field(factory=Progress)
    order: EpochOrder | None = None
    _progress: dict[int, Progress] = attrs.field(factory=dict, init=False)
    _orders: dict[int, list[int]] = attrs.field(factory=dict, init=False)

    def indices(self) -> Iterator[int]:
        """Yield the indices of the rows to read: those that wait, the rest of the epoch, and the epochs after it."""
        yield from self.start.waiting
        epoch, n_read = self.start.epoch, self.start.n_read
        while self.n_epochs is None or epoch < self.n_epochs:
            yield from self._order(epoch)[n_read:]
            epoch, n_read = epoch + 1, 0

    def steps(self, encoded: Iterable[tuple[Example, ...] | None]) -> Iterator[list[Batch]]:
        """Make each step's microbatches.

        The packs left at the end of an epoch make a shorter microbatch and a shorter step; none crosses epochs.

        Args:
            encoded: The examples of each row of `indices`, in the same order; None for a row that cannot be learned
                from. Several examples of a row stand in one pack.

        Yields:
            Microbatches; none if all rows left in an epoch could not be learned from.
        """
        return collate_steps(self, encoded)

    def plan(self, found: Iterable[Item | None], count: Callable[[Item], int]) -> Iterator[list[list[Pack[Item]]]]:
        """Choose each step's packs.

        Args:
            found: What is known of each row of `indices`, in the same order; None for a row that cannot be learned
                from.
            count: Gives the places that such a row takes.

        Yields:
            Microbatches of packs, each of (index of a row, what is known of it).
        """
        rows, wanted = iter(found), LOOKAHEAD * self.batch_size * self.capacity
        progress, step = self.start, self.first_step
        held = [(index, row) for index in progress.waiting if (row := next(rows)) is not None]
        while (self.n_steps is None or step < self.n_steps) and (
            self.n_epochs is None or progress.epoch < self.n_epochs
        ):
            epoch, n_read = progress.epoch, progress.n_read
            order = self._order(epoch)
            microbatches: list[list[Pack[Item]]] = []
            while len(microbatches) < self.accumulation:
                n_positions = sum(count(row) for _, row in held)
                while n_read < self.n_rows and n_positions < wanted:
                    row = next(rows)
                    if row is not None:
                        held.append((order[n_read], row))
                        n_positions += count(row)
                    n_read += 1
                if not held:
                    break
                lengths = [count(row) for _, row in held]
                packs = first_fit_decreasing(lengths, self.capacity)[: self.batch_size]
                microbatches.append([[held[place] for place in pack] for pack in packs])
                taken = {place for pack in packs for place in pack}
                held = [pair for place, pair in enumerate(held) if place not in taken]
            if n_read == self.n_rows and not held:
                epoch, n_read = epoch + 1, 0
            step += 1
            progress = Progress(epoch=epoch, n_read=n_read, waiting=tuple(index for index, _ in held))
            self._progress[step] = progress
            yield microbatches

    def progress_at(self, step: int) -> Progress:
        """Return the progress after a step that was planned.

        Steps are planned any number ahead of those that are asked for; steps long before those are forgotten.
        """
        self._forget(step - REMEMBERED)
        return self.start if step == self.first_step else self._progress[step]

    def count_at(self, step: int) -> int:
        """Count the steps of the run, as far as their number is known after a step that `steps` has yielded.

        Where epochs end the run it is an estimate, by the share of rows learned so far, until the last step. Of a step
        that was not yielded is known what was known at first.
        """
        self._forget(step - REMEMBERED)
        if self.n_steps is not None:
            return self.n_steps
        step = step if step in self._progress else self.first_step
        progress, n_epochs = self.progress_at(step), self.n_epochs or 0
        if progress.epoch >= n_epochs:
            return step
        learned = progress.epoch * self.n_rows + progress.n_read - len(progress.waiting)
        return max(step + 1, round(step * n_epochs * self.n_rows / max(1, learned)))

    def _forget(self, last: int) -> None:
        for step in [step for step in list(self._progress) if step <= last]:
            self._progress.pop(step, None)

    def _order(self, epoch: int) -> list[int]:
        # Two are kept: rows are read ahead into the next epoch while steps of this one are planned.
        if epoch not in self._orders:
            order = self.order or plain_order(self.n_rows, seed=self.seed, shuffle=self.shuffle)
            self._orders[epoch] = order(epoch).tolist()
            for old in [known for known in self._orders if known < epoch - 1]:
                del self._orders[old]
        return self._orders[epoch]


@attrs.frozen(eq=False, kw_only=True)
class PackedSource:
    """Batches of packed rows, which are chosen while they are read.

    Attributes:
        batches: Microbatches, step by step.
        packed: How they are packed.
    """

    batches: Iterator[list[Batch]]
    packed: PackedSteps

    @property
    def is_estimated(self) -> bool:
        """Whether epochs end the run: how many steps they take shows while rows are packed."""
        return self.packed.n_steps is None

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the microbatches of each step."""
        return self.batches

    def n_steps(self, step: int) -> int:
        """Count the steps of the whole run, as far as their number is known after a step."""
        return self.packed.count_at(step)

    def position(self, step: int) -> str:
        """Return how many rows were read after a step, and which of them wait."""
        return self.packed.progress_at(step).dumps()

    def n_epochs(self, step: int) -> int:
        """Count the epochs that are over with a step."""
        return self.packed.progress_at(step).epoch

    def ended(self, step: int) -> tuple[EndedEpoch, ...]:
        """Return (): how many rows an epoch has is known from the beginning."""
        del step
        return ()


def packed_source(
    recipe: Recipe,
    n_rows: int,
    first_step: int,
    found: str | None,
    order: EpochOrder | None = None,
    *,
    n_planned: int = 1,
) -> PackedSteps:
    """Lay out the steps of a recipe that packs rows.

    Args:
        recipe: The recipe.
        n_rows: Rows to train on.
        first_step: Steps done before.
        found: What the training state has said of them, if anything: `Progress.dumps` of packed rows.
        order: As for `PackedSteps`.
        n_planned: Ranks for which the steps are planned; a microbatch has `train.batch_size` packs for each.
    """
    train = recipe.train
    return PackedSteps(
        n_rows=n_rows,
        capacity=train.pack_length or recipe.data.max_seq_length,
        batch_size=train.batch_size * n_planned,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=recipe.data.shuffle,
        n_steps=train.iters if train.epochs is None else None,
        n_epochs=train.epochs,
        first_step=first_step,
        start=Progress() if found is None else Progress.loads(found),
        order=order,
    )


def packed_eval_source(recipe: Recipe, n_rows: int, n_planned: int = 1, n_batches: int | None = None) -> PackedSteps:
    """Lay out one pass over the rows to validate on, the same every time.

    The order is drawn: the first rows of a sorted set would not stand for it.

    Args:
        recipe: The recipe.
        n_rows: Rows to validate on.
        n_planned: As for `packed_source`.
        n_batches: How many microbatches of them are read; None for all.
    """
    shuffled = attrs.evolve(recipe, data=attrs.evolve(recipe.data, shuffle=True))
    source = packed_source(shuffled, n_rows, 0, None, n_planned=n_planned)
    order = None
    if recipe.data.streaming:
        # As they stand in their files. A pack has one row at least: of a window all are read, but for the last window.
        window = n_rows if n_batches is None else n_batches * source.batch_size
        order = sort_windows(plain_order(n_rows, seed=source.seed, shuffle=True), window)
    return attrs.evolve(source, accumulation=1, n_steps=None, n_epochs=1, order=order)
