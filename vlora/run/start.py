"""What comes before the first step: the folder taken, rows and model loaded, the state found, the files begun."""

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import attrs
import mlx.core as mx

from .. import models
from ..arguments import expect_type
from ..build import Data, follow_rules, load_model, load_rows, make_recipe_step
from ..compilation import known_kernels
from ..data.pairing import refuse_alone
from ..data.prefetch import WorkerPool, count_workers
from ..data.stream_starts import check_files
from ..errors import CheckpointError, RanksError, RecipeError
from ..evaluation.metrics import find_metrics
from ..events import Compiled, Compiling, Event, Warned, Working
from ..memory.limits import check_weights_fit, device_kind, memory_limits, naming_shortage
from ..output import checkpoint
from ..output.archive import refuse_among_rows
from ..output.base_identity import BaseIdentity, check_base
from ..output.checkpoint import Found
from ..output.lock import exclusive_run_lock
from ..output.paths import OutputPaths, output_paths
from ..output.resume import check_resumable, pin_revisions
from ..recipe.preference import REFERENCED
from ..recipe.schema import Recipe
from ..system.nouns import with_noun
from ..train.loop import TrainLoop
from ..train.optimizers import make_optimizer
from ..train.ranks import Ranks, open_ranks
from ..train.reference import make_reference
from ..train.rules import Rules, parse_rules
from ..train.schedules import is_due, learning_rate_at
from ..train.state import init_state, unbind
from .batches import make_loader, make_source
from .context import RunContext
from .feature_cache import Features, attach_feature_cache
from .files import clear_up, find_learned, open_files
from .kept_reference import keep_reference
from .preferences import check_start
from .started import describe_added, describe_start
from .validator import Validator

_Opening = Generator[Event, None, RunContext]

PROBE_ROWS = 3
PROBE_READS = 32


def start(
    recipe: Recipe, stack: ExitStack, *, resume: bool, or_start: bool, should_stop: Callable[[], bool]
) -> Generator[Event, None, RunContext]:
    """Prepare a run up to its first step.

    Args:
        recipe: The recipe.
        stack: What the run holds is released with it.
        resume: As for `fit`.
        or_start: As for `fit`.
        should_stop: As for `fit`.

    Yields:
        What there is to know before the first step, `Started` among it.

    Raises:
        VloraError: The run cannot begin; nothing of an earlier run in its folder was changed.
    """
    expect_type(recipe, Recipe, "fit", "give a Recipe, as parse_recipe makes it of a text")
    run = yield from _open(recipe, stack, open_ranks(), resume=resume, or_start=or_start)
    yield Working(what="reading the first rows")
    run.data.encoder.prepare(run.data.train.first_samples())
    if not run.data.files.family.is_proven or recipe.train.batching == "packed":
        yield Working(what="trying the model on the first rows")
        _probe(run)
    if recipe.preference.precompute:
        yield from keep_reference(run)
    yield Working(what="preparing the first step")
    first = _make_loop(run, should_stop)
    unbind(run.backbone)
    # The first one is going to rename what the others read.
    run.ranks.wait()
    warnings = open_files(run, first, stack)
    started = describe_start(run, first)
    yield started
    n_frozen = models.frozen_bytes(run.backbone) if run.ranks.size > 1 else None
    run.metrics.write_start(started.device, first, run.commits, n_frozen)
    yield from warnings
    yield from run.first_cuts()
    if run.data.valid is not None:
        own = (run.backbone, run.reference, run.ranks, run.n_planned)
        run.validator = Validator(recipe, run.data.valid, run.loader, run.data.encoder, *own)
    run.done, run.saved = first, None if run.found is None else first
    return run


def _open(recipe: Recipe, stack: ExitStack, ranks: Ranks, *, resume: bool, or_start: bool) -> _Opening:
    """Take the folder, find the state to go on from, and load rows and model."""
    paths, metrics = output_paths(recipe), find_metrics(recipe.eval.metrics)
    if not (resume and checkpoint.has_state(paths.state)):
        refuse_among_rows(recipe, paths)
    compilation = known_kernels.Compilation(paths.folder)
    if ranks.is_first:
        stack.enter_context(exclusive_run_lock(paths.folder))
    is_divided = recipe.train.shard == "params" and ranks.size > 1
    stack.enter_context(memory_limits(recipe.memory, is_divided=is_divided))
    if ranks.is_first:
        resume = yield from clear_up(paths, resume=resume, or_start=or_start)
        compilation = yield from _begin_to_compile(recipe)
    resume = ranks.sum(float(resume and ranks.is_first)) > (0.0,)
    yield Working(what="reading the rows")
    found, rules, data = yield from _load_rows(recipe, paths, ranks, resume=resume)
    learned, warnings = find_learned(recipe.data, paths, found, data.train)
    yield from warnings
    yield from _wait_for(compilation)
    ranks.wait()
    yield Working(what="loading the model")
    backbone, config, features = yield from _load_model(recipe, data, ranks, found)
    if recipe.model.add_tokens and not resume:
        yield Warned(message=describe_added(recipe.model.add_tokens))
    stack.enter_context(_flushed(features))
    workers = stack.enter_context(WorkerPool(count_workers(recipe.data.workers)))
    stack.enter_context(_synchronized())
    data = attrs.evolve(data, encoder=features.encoder)
    return RunContext(
        recipe=recipe,
        paths=paths,
        found=found,
        rules=rules,
        learned=learned,
        data=data,
        backbone=backbone,
        config=config,
        features=features,
        loader=make_loader(recipe, data, backbone, workers, ranks.size),
        answer_metrics=metrics,
        ranks=ranks,
        n_planned=ranks.size if found is None else found.metadata.ranks,
    )


def _load_model(
    recipe: Recipe, data: Data, ranks: Ranks, found: Found | None
) -> Generator[Warned, None, tuple[models.MlxVlmBackbone, dict[str, Any], Features]]:
    """Load the model and what keeps its features, and divide its weights if the recipe says so."""
    is_divided = yield from _choose_division(recipe, data, ranks)
    with naming_shortage("loading the model"):
        backbone, config = load_model(recipe, data.files, is_lazy=is_divided)
    yield from _check_base(recipe, backbone, found)
    device = models.DeviceMark.of(output_paths(recipe).folder, ranks.rank) if ranks.size > 1 else None
    features = attach_feature_cache(recipe, data, backbone, device)
    if is_divided and ranks.group is not None:
        with naming_shortage("dividing the model's weights"):
            # Behind what needs the weights themselves.
            models.divide(backbone, ranks.group)
    check_weights_fit(recipe.memory, backbone.module, backbone.shards.n_elsewhere if backbone.shards else 0)
    return backbone, config, features


def _choose_division(recipe: Recipe, data: Data, ranks: Ranks) -> Generator[Warned, None, bool]:
    """Say whether the devices divide the frozen weights.

    Raises:
        RecipeError: The whole model has to be written.
    """
    if recipe.train.shard == "none":
        return False
    if data.files.added:
        msg = (
            "train.shard: found 'params', and model.adapter_path brings tokens, for which the whole model is written; "
            "leave one of the two out"
        )
        raise RecipeError(msg)
    if ranks.size == 1:
        yield Warned(message="train.shard: found 'params', which changes nothing on one device; --devices gives more")
    return ranks.size > 1


def _load_rows(
    recipe: Recipe, paths: OutputPaths, ranks: Ranks, *, resume: bool
) -> Generator[Warned, None, tuple[Found | None, Rules, Data]]:
    """Find the state to go on from, and load the rows by the rules that the run began with."""
    found, rules = checkpoint.find_state(paths.state) if resume else None, Rules()
    pinned = recipe if found is None else pin_revisions(found.metadata, recipe)
    data = ranks.behind_first(lambda: load_rows(pinned))
    if not data.train.streams and len(data.train) < ranks.size:
        msg = f"{data.train.name}: found {len(data.train)} rows for {ranks.size} devices; use fewer devices"
        raise RanksError(msg)
    refuse_alone(recipe, data.train)
    if found is not None:
        yield from _tell_other_ranks(found.metadata.ranks, ranks.size)
        check_resumable(found.metadata, recipe, data.train.n_known, found.path, data.encoder.template)
        check_files(found.metadata.position, data.train.streams, is_mixture=bool(recipe.data.sources))
        rules = parse_rules(found.metadata.rules, found.path)
        data = follow_rules(data, rules)
    return found, rules, data


def _check_base(recipe: Recipe, backbone: models.MlxVlmBackbone, found: Found | None) -> Iterator[Warned]:
    """Say where an adapter, or the state to go on from, was trained on other weights than the model's.

    Raises:
        CheckpointError: It was trained on another architecture, or model.strict_base refuses other weights.
    """
    note = backbone.base_note
    if found is not None and found.metadata.recipe is not None and backbone.base is not None:
        recorded = BaseIdentity.loads(found.metadata.base)
        # What the adapter was that the run began from was told then.
        note = check_base(
            recorded, backbone.base, found.path, is_strict=recipe.model.strict_base, older=recipe.model.path
        )
    if note is not None:
        yield Warned(message=note)


def _tell_other_ranks(then: int, now: int) -> Iterator[Warned]:
    """Say that a run goes on with another number of devices: its steps keep their rows."""
    if then != now:
        message = (
            f"the run began on {with_noun(then, 'device', commas=False)} and goes on on {now}: its steps have the same "
            "rows as before, and sums differ in rounding"
        )
        yield Warned(message=message)


def _begin_to_compile(recipe: Recipe) -> Generator[Warned | Compiling, None, known_kernels.Compilation]:
    """Let workers compile kernels; of several ranks the first one does it for all."""
    compilation = known_kernels.begin_for(recipe)
    if compilation.note is not None:
        yield Warned(message=compilation.note)
    if compilation.announced is not None:
        yield compilation.announced
    return compilation


def _wait_for(compilation: known_kernels.Compilation) -> Iterator[Working | Compiled]:
    """Wait for kernels that workers compile."""
    if compilation.announced is not None:
        yield Working(what="compiling kernels")
    if (compiled := compilation.wait()) is not None:
        yield compiled


@naming_shortage("trying the model on the first rows")
def _probe(run: RunContext) -> None:
    """Check on a few of the first rows what the family, or packing, promises."""
    examples = list(itertools.chain.from_iterable(run.first_examples(PROBE_READS)))
    if not examples:
        return
    examples.sort(key=lambda example: len(example.tokens))
    # The shortest, the longest and one between: padding and what else is in the batch differ the most.
    places = sorted({0, len(examples) // 2, len(examples) - 1})[:PROBE_ROWS]
    chosen, model_type = [examples[place] for place in places], run.data.files.model_type
    if not run.data.files.family.is_proven:
        models.check_family(run.backbone, chosen, model_type)
    train = run.recipe.train
    if train.batching == "packed":
        length = train.pack_length or run.recipe.data.max_seq_length
        models.check_packing(run.backbone, chosen, length, model_type)


def _make_loop(run: RunContext, should_stop: Callable[[], bool]) -> int:
    """Make the run's batches and its loop, and give the number of steps done before."""
    recipe = run.recipe
    optimizer = make_optimizer(recipe.optim)
    state = init_state(run.backbone, optimizer)
    is_compared = recipe.train.objective in REFERENCED
    reference = make_reference(recipe, run.backbone, state.params) if is_compared else None
    if run.found is not None:
        state = checkpoint.load_state(run.found.path, state, is_checked=True)
    first = int(state.step)
    source = make_source(recipe, run.loader, run.data.encoder, first, run.metadata.position, run.ranks, run.n_planned)
    _refuse_fewer(run, source.n_steps(first), first)
    validates, every, rules = run.data.valid is not None, recipe.train, run.rules
    answer_every = recipe.eval.answer_every if validates and recipe.eval.answer_rows else 0

    def needs_sync(step: int) -> bool:
        n_steps = source.n_steps(step)
        # The first one too: how long it took is told when it is over, not when the next shape is traced.
        return (
            step == first + 1
            or (validates and is_due(step, every.steps_per_eval, n_steps))
            or (answer_every > 0 and is_due(step, answer_every, n_steps))
            or is_due(step, every.steps_per_save, n_steps)
            or run.shares_features(step)
        )

    # The only reference to the state: another one would keep the old state alive during the next step.
    run.loop = TrainLoop(
        make_recipe_step(recipe, run.backbone, optimizer, state, reference=reference, rules=rules, ranks=run.ranks),
        state,
        lambda step: learning_rate_at(step, source.n_steps(step), recipe.optim, rules),
        needs_sync=needs_sync,
        should_stop=should_stop,
        # Steps took 0.87 and 0.94 of the time on two H200s. A CPU does both with the same cores. Not measured on Metal.
        looks_ahead=device_kind() == "cuda",
        hold=run.loader.workers.hold,
        release=run.loader.workers.release,
        sums=run.metadata.sums,
        ranks=run.ranks,
    )
    run.source, run.reference = source, reference
    if run.shares_features(first):
        run.share_features()
    if not first and is_compared:
        check_start(run, reference)
    return first


def _refuse_fewer(run: RunContext, n_steps: int, first: int) -> None:
    if first > n_steps:
        key = "train.iters" if run.recipe.train.epochs is None else "train.epochs"
        msg = f"{key}: the recipe has {n_steps} steps, of which {first} are done ({run.paths.state}); raise it"
        raise CheckpointError(msg)


@contextmanager
def _flushed(features: Features) -> Iterator[None]:
    """Write buffered features to disk when the run is over, however it ends."""
    try:
        yield
    except BaseException:
        # Where there was no memory for a step there may be none for this either; the step's error is the one to tell.
        with suppress(RuntimeError, MemoryError):
            features.flush()
        raise
    features.flush()


@contextmanager
def _synchronized() -> Iterator[None]:
    """Wait for the device when the run is over, however it ends: what the device reads may be gone afterwards."""
    try:
        yield
    finally:
        # What the device failed with was raised already, or concerns a step that is no longer asked for.
        with suppress(RuntimeError):
            mx.synchronize()
