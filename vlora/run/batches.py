"""The batches of a recipe's run, shuffled, grouped by length or packed, and what reads its rows."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import mlx.core as mx

from .. import models
from ..build import Data
from ..data.batch_source import BatchSource, PlannedSource, StreamSource
from ..data.collate import make_stand_in
from ..data.drawn_rows import DrawnRows, draw_rows
from ..data.linking import LinkedRow, LinkingLoader, StepRows, draw_link, link_alone, link_rows
from ..data.loader import DataLoader, flatten
from ..data.measuring import measure_drawn, measure_rows
from ..data.pack_plan import PackPlan, count_positions
from ..data.pack_sharing import PackShare
from ..data.packed_streams import packed_stream_steps
from ..data.packing import PackedSource, packed_source
from ..data.pairing import count_examples, needs_mismatched
from ..data.prefetch import WorkerPool
from ..data.rows import RowDataset
from ..data.sampler import share_steps, step_batches, steps_per_epoch
from ..data.streaming import stream_steps
from ..data.values import Row
from ..errors import CheckpointError
from ..models import Encoder, LengthEstimator
from ..recipe.preference import LOSSES
from ..recipe.schema import Recipe
from ..train.objectives.preference import MISMATCHED, PREFERRED, split_reference
from ..train.ranks import Ranks
from ..train.schedules import count_steps
from ..types import Batch, Example, RowMark, Sample
from . import consumed

PRIMED_STEPS = 32
"""Of a stream: steps among whose rows one that can be learned from is looked for before the first one."""


def make_loader(
    recipe: Recipe, data: Data, backbone: models.MlxVlmBackbone, workers: WorkerPool, n_devices: int
) -> DataLoader:
    """Make what reads a recipe's rows: their answers, two of a pair, those of other rows where a loss needs them."""
    train, mark = data.train, consumed.mark_row
    drawn = draw_rows(train) if train.streams else None
    if drawn is not None:
        train, mark_drawn = drawn.rows, drawn.mark

        def mark(index: int, row: Row, sample: Sample) -> RowMark:
            del row, sample
            return mark_drawn(index)

    spell = data.encoder.tokenizer.convert_ids_to_tokens

    def encode(sample: Sample) -> tuple[Example, ...]:
        return tuple(backbone.prepare(example, spell) for example in data.encode(sample))

    is_packed = recipe.train.batching == "packed"
    is_linked = needs_mismatched(recipe)

    stand_in = functools.partial(_make_stand_in, recipe, data.encoder.tokenizer.eos_token_id or 0, is_linked=is_linked)
    seed = recipe.train.seed if is_packed else None
    make = functools.partial(LinkingLoader, link=models.link_answers, seed=seed) if is_linked else DataLoader
    return make(
        train=train,
        drawn=drawn,
        data=recipe.data,
        batch_size=recipe.train.batch_size,
        workers=workers,
        encode=encode,
        mark=mark,
        prepare_batch=backbone.prepare_batch,
        join=models.add_mismatched if needs_mismatched(recipe) else flatten,
        # Layers whose weights are divided run on all ranks or on none; so do terms that are added up within a step.
        stand_in=stand_in if (is_linked and n_devices > 1) or backbone.shards is not None else None,
        examples_per_row=count_examples(recipe, data.train),
        # Found here, before threads ask: it replaces parts of the model for a moment.
        multiple=backbone.length_multiple if backbone.joins else None,
    )


def _make_stand_in(recipe: Recipe, token: int, *, is_linked: bool) -> Batch:
    """Make the batch that a rank without a row runs, with the columns that its objective reads."""
    batch = make_stand_in(token)
    # Made of a number that is there: what a thread leaves to be computed is computed by no other one.
    names = [*[PREFERRED] * (recipe.train.objective in LOSSES), *[MISMATCHED] * is_linked]
    names += [*split_reference(0.0)] * recipe.preference.precompute
    columns = dict.fromkeys(names, mx.array([0.0]))
    return batch._replace(targets=batch.targets._replace(columns=columns))


def make_source(
    recipe: Recipe,
    loader: DataLoader,
    encoder: Encoder,
    first: int,
    position: str,
    ranks: Ranks | None = None,
    n_planned: int = 1,
) -> BatchSource:
    """Plan the steps after those that were done before, and read up to the first that has a row.

    Several ranks plan the same steps, whose microbatches have the rows of all of them, and read their own shares.

    Args:
        recipe: The recipe.
        loader: Reads the rows to train on.
        encoder: Says how long rows are where they are grouped by length.
        first: Steps done before.
        position: What the training state remembers of them (`BatchSource.position`).
        ranks: Those that take the steps together.
        n_planned: Ranks for which the steps are planned: those with which the run began. A microbatch has
            `train.batch_size` rows for each.

    Raises:
        SampleError: A row cannot be learned from, or none of a new run can.
        CheckpointError: The steps done before were of another kind.
    """
    ranks = ranks or Ranks()
    train, data = recipe.train, recipe.data
    planned = attrs.evolve(train, batch_size=train.batch_size * n_planned)
    # Rows of a whole step at least: while it runs nothing else makes room for more.
    n_ahead = max(data.prefetch, train.gradient_accumulation_steps)
    _check_kind(recipe, first, position)
    if loader.drawn is not None:
        return _make_streamed(recipe, loader, loader.drawn, encoder, first, position, ranks, n_planned, n_ahead)
    n_rows = len(loader.train)
    if train.batching == "packed":
        order = loader.train.order(seed=train.seed, shuffle=data.shuffle)
        packed = packed_source(recipe, n_rows, first, position or None, order, n_planned=n_planned)
        batches = read_packed(loader, loader.train, packed, encoder, ranks, n_planned, n_ahead)
        # How many steps the epochs take shows with the first one.
        return PackedSource(batches=loader.prime(batches, 1, is_new=not first, agree=agreeing(ranks)), packed=packed)
    n_steps = count_steps(planned, n_rows)
    plan = step_batches(
        n_rows,
        planned.batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
        shuffle=data.shuffle,
        n_steps=n_steps,
        first_step=first,
        measure=measure_rows(loader, LengthEstimator(encoder)) if train.batching == "grouped" else None,
        order=loader.train.order(seed=train.seed, shuffle=data.shuffle),
    )
    per_epoch = steps_per_epoch(n_rows, planned.batch_size, train.gradient_accumulation_steps)
    own = share_rows(recipe, loader.train, plan, ranks, planned.batch_size, is_even=loader.stand_in is not None)
    batches = loader.collate(loader.train, own, n_ahead)
    primed = loader.prime(batches, per_epoch, is_new=not first, agree=agreeing(ranks))
    return PlannedSource(batches=primed, total=n_steps, per_epoch=per_epoch)


def share_rows(
    recipe: Recipe,
    rows: RowDataset,
    steps: Iterable[Sequence[Sequence[int]]],
    ranks: Ranks,
    n_planned_rows: int,
    *,
    is_even: bool,
) -> Iterator[StepRows]:
    """Yield this rank's rows of each step; where rows are joined, a rank's of a microbatch stay one microbatch.

    Args:
        recipe: The recipe.
        rows: The rows.
        steps: Row indices: microbatches of each step, with the rows of all ranks.
        ranks: Those that take the steps together.
        n_planned_rows: Rows of a microbatch at most, those of all ranks.
        is_even: Whether all ranks have as many microbatches, some of them empty.
    """
    size = -(-n_planned_rows // ranks.size) if needs_mismatched(recipe) else recipe.train.batch_size
    planned: Iterable[Sequence[Sequence[int | LinkedRow]]] = steps
    if needs_mismatched(recipe):
        draw = functools.partial(draw_link, n_rows=len(rows), seed=recipe.train.seed)
        planned = link_alone(link_rows(steps) if ranks.size > 1 else steps, draw)
    return share_steps(planned, ranks.rank, ranks.size, size, is_even=is_even)


def agreeing(ranks: Ranks) -> Callable[[bool], bool]:
    """Make what says whether something was found on any of several ranks."""
    return lambda is_found: ranks.sum(float(is_found))[0] > 0


def _make_streamed(
    recipe: Recipe,
    loader: DataLoader,
    drawn: DrawnRows,
    encoder: Encoder,
    first: int,
    position: str,
    ranks: Ranks,
    n_planned: int,
    n_ahead: int,
) -> BatchSource:
    """Plan steps of streamed rows, see `make_source`."""
    batching, size, agree = recipe.train.batching, ranks.size, agreeing(ranks)
    if batching == "packed":
        packed = packed_stream_steps(recipe, drawn, first, position, n_planned=n_planned, rank=ranks.rank, n_ranks=size)
        batches = read_packed(loader, loader.train, packed, encoder, ranks, n_planned, n_ahead)
        # A step is without a row when all were read through.
        primed = loader.prime(batches, 1, is_new=not first, agree=agree)
        return StreamSource(batches=primed, steps=packed)
    measure = measure_drawn(loader, LengthEstimator(encoder)) if batching == "grouped" else None
    steps = stream_steps(
        recipe,
        drawn,
        first,
        position,
        n_planned=n_planned,
        rank=ranks.rank,
        n_ranks=size,
        measure=measure,
        is_joined=needs_mismatched(recipe),
        is_even=loader.stand_in is not None,
    )
    batches = loader.collate(loader.train, steps.steps(), n_ahead)
    return StreamSource(batches=loader.prime(batches, PRIMED_STEPS, is_new=not first, agree=agree), steps=steps)


def read_packed(
    loader: DataLoader,
    rows: RowDataset,
    packed: PackPlan,
    encoder: Encoder,
    ranks: Ranks,
    n_planned: int,
    n_ahead: int,
) -> Iterator[list[Batch]]:
    """Read packed rows; of several ranks this one's share.

    One rank alone packs rows as it encodes them. Several have to choose the same packs, and a row is to be encoded by
    one of them only: each finds the lengths of all rows, without their pixels.
    """
    if max(ranks.size, n_planned) == 1:
        return loader.pack(rows, packed, n_ahead)
    measurer = models.RowMeasurer(encoder)

    measure = functools.partial(models.encode_answers, measurer)

    def count(index: int) -> int:
        examples = measure(rows[index])
        if isinstance(loader, LinkingLoader):
            examples = loader.join_other(rows, index, examples, measure)
        return count_positions(examples)

    share = PackShare(rank=ranks.rank, n_ranks=ranks.size, count=count)
    return share.pack(loader, rows, packed, n_ahead)


def _check_kind(recipe: Recipe, first: int, position: str) -> None:
    """Refuse to go on with rows of their own after packed or streamed ones, or the other way round."""
    batching, is_streamed = recipe.train.batching, recipe.data.streaming
    if first and (batching == "packed" or is_streamed) != bool(position):
        found = "data.streaming: found true" if is_streamed else f"train.batching: found {batching!r}"
        then = "whose rows were packed or streamed" if position else "whose rows were neither packed nor streamed"
        msg = f"{found}, and the training state is of a run {then}; go on with the recipe of that run, or begin anew"
        raise CheckpointError(msg)
