"""The loop: rows in, steps taken, files written, events out. It prints nothing; who iterates decides what to show."""

import functools
import itertools
import json
import math
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from .. import models
from ..adapters.layers import adapter_state_dict, lora_layers
from ..adapters.targets import summarize
from ..build import Data, Features, attach_feature_cache, follow_rules, load_data, load_model, make_recipe_step
from ..compilation.known_kernels import begin
from ..cuts import CutCounts, find_cuts
from ..data.collate import epoch_batches, step_batches, steps_per_epoch
from ..data.packing import packed_eval_source, packed_source
from ..data.prefetch import WorkerPool, count_workers
from ..data.rows import RowDataset
from ..errors import AnswerError, CheckpointError, NonFiniteError, OutOfMemoryError, SampleError, VloraError
from ..estimate.shortage import explain_shortage, foresee
from ..events import Event, Finished, Generated, Saved, Skipped, Started, StepReport, Warned
from ..memory.limits import check_weights_fit, describe_device, memory_limits, naming_shortage
from ..ops.quantized import count_parameters
from ..output import checkpoint
from ..output.archive import JOURNAL_NAME, archive_previous_run, complete_setting_aside, refuse_links, remove_partials
from ..output.lock import LOCK_NAME, exclusive_run_lock
from ..output.metrics_log import MetricsLog
from ..output.paths import EXAMPLE_NAME, METRICS_NAME, RECIPE_NAME, STATE_NAME, OutputPaths, output_paths
from ..output.resume import check_resumable, describe_settings
from ..recipe.schema import Recipe, dump_recipe
from ..system.endings import close_at_exit
from ..train.loop import TrainLoop, evaluate
from ..train.optimizers import make_optimizer
from ..train.rules import NOTE, Rules, parse_rules
from ..train.schedules import count_steps, is_due, learning_rate_at
from ..train.state import all_finite, bind, init_state, unbind
from ..train.step import make_eval_step
from ..types import Batch, Cut, TrainState
from . import consumed
from .consumed import Learned
from .loader import DataLoader

PROGRESS = "progress"
"""How far a run has come in its rows, in the notes of its training state, where the number of steps does not say it."""

CUTS = "cuts"
"""How many rows were cut in the steps that were done, in the notes of its training state."""

REPORTS, SUMS = "reports", "sums"
"""How far its metrics were, and what its running loss was the mean of."""

ANY_QUESTION = "Describe this."
FEWER_ANSWERS = "lower eval.max_new_tokens or data.max_pixels, or leave answers out with --set eval.answer_rows=0"
NOT_A_MODELS = (METRICS_NAME, RECIPE_NAME, EXAMPLE_NAME, LOCK_NAME, JOURNAL_NAME)
"""Names of files of a run in a model's folder: the base may be the folder of another one."""

PROBE_ROWS = 3
PROBE_READS = 32


Validate = Callable[[TrainState, Callable[[], bool]], Generator[Event, None, bool]]
"""Validates a state, unless the run is asked to end meanwhile; says whether it was."""


def _nothing(*_: object) -> Generator[Event, None, bool]:
    """Validate where there are no rows for it."""
    yield from ()
    return False


def _never() -> bool:
    """Before the first step there is nothing to save: a run that is to end then ends at once, and not in order."""
    return False


def fit(
    recipe: Recipe, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
    """Carry out a recipe.

    A run may be left before its end: with `close()`, by letting go of it, or by ending the interpreter. Its threads
    have ended then, its files are closed, and its folder is another run's to take. What was saved last stays.

    Args:
        recipe: What to do.
        resume: Go on exactly from the training state beside the output: same weights, optimizer, rows and dropout
            as if the run had never stopped.
        should_stop: Asked after every step, and then between batches of a validation and between answers; True saves
            and ends the run in order, a validation or answers left off where they are.

    Yields:
        Events as they happen, `Finished` last.

    Raises:
        VloraError: Whatever the user can mend. Nothing non-finite is ever saved. Whatever a run ends with, the steps
            before it are saved first, if they can still be read and written; the message or a note of the error says
            which step `resume` goes on from.
    """
    run = explain_shortage(recipe, _carry_out(recipe, resume=resume, should_stop=should_stop))
    close_at_exit(run)
    return run


def _carry_out(recipe: Recipe, *, resume: bool, should_stop: Callable[[], bool]) -> Generator[Event, None, None]:
    paths = output_paths(recipe)
    with exclusive_run_lock(paths.folder), memory_limits(recipe.memory):
        completed = complete_setting_aside(paths.folder)
        remove_partials(paths)
        if completed is not None:
            yield Warned(message=_describe_earlier(paths, completed))
        if resume:
            refuse_links(paths)
        compilation = begin(recipe.model.path)
        if compilation.note is not None:
            yield Warned(message=compilation.note)
        if compilation.announced is not None:
            yield compilation.announced
        data = load_data(recipe)
        found, rules = checkpoint.find_state(paths.state) if resume else None, Rules()
        if found is not None:
            check_resumable(found.notes, recipe, len(data.train), found.path, data.encoder.template)
            rules = parse_rules(found.notes.get(NOTE), found.path)
            data = follow_rules(data, rules)
        learned, notes = _find_learned(recipe, found, data.train)
        yield from notes
        if (compiled := compilation.wait()) is not None:
            yield compiled
        with naming_shortage("loading the model"):
            backbone, config = load_model(recipe, data.files)
        if recipe.model.add_tokens and not resume:
            yield Warned(message=_describe_added(recipe.model.add_tokens))
        check_weights_fit(recipe.memory, backbone.module)
        features = attach_feature_cache(recipe, data, backbone)
        with _written(features), WorkerPool(count_workers(recipe.data.workers)) as workers, _settled():
            prepare = functools.partial(backbone.prepare, spell=data.encoder.tokenizer.convert_ids_to_tokens)
            reader = DataLoader(recipe, data, workers, prepare, backbone.prepare_batch)
            run = _Run(recipe, data, backbone, config, features, reader, found, rules, learned)
            yield from run.run(should_stop=should_stop)


def _find_learned(recipe: Recipe, found: checkpoint.Found | None, rows: RowDataset) -> tuple[Learned, list[Warned]]:
    """Find which rows a run that goes on has learned, and see that they are still the same.

    Raises:
        CheckpointError: They are not, and the recipe does not allow it.
    """
    path, allows = output_paths(recipe).state.with_name(consumed.NAME), recipe.data.allow_changed_rows
    if found is None:
        return consumed.begin(path, len(rows)), []
    try:
        learned, changed = consumed.go_on(path, found.notes.get(consumed.NOTE), rows)
    except CheckpointError as error:
        if not allows:
            raise
        return consumed.begin(path, len(rows)), [Warned(message=str(error))]
    if not changed:
        return learned, []
    named = consumed.describe_changes(changed, rows.name)
    what = f"{len(changed):,} of the rows that were learned have changed since, {named}"
    if not allows:
        remedy = "put them back, begin anew without --resume, or go on all the same with"
        msg = f"{found.path}: {what}; {remedy} --set data.allow_changed_rows=true"
        raise CheckpointError(msg)
    return learned, [Warned(message=f"{what}; the run goes on all the same, as data.allow_changed_rows has it")]


def _describe_earlier(paths: OutputPaths, earlier: Path) -> str:
    message = f"what an earlier run, or somebody else, has left in {paths.folder} is in {earlier} now"
    if checkpoint.has_state(earlier / STATE_NAME):
        output = earlier / paths.weights.name if paths.is_adapter else earlier
        message += f", and goes on from there with --resume --set output.path={output}"
    return message


def _describe_added(tokens: Sequence[str]) -> str:
    named = repr(tokens[0]) if len(tokens) == 1 else f"{tokens[0]!r} to {tokens[-1]!r} ({len(tokens):,} tokens)"
    return f"added to the model, from the mean of its tokens: {named}; all of its embeddings and its head are trained"


def _add(error: BaseException, kept: str) -> None:
    """Add to an error what is left to go on from.

    Raises:
        VloraError: One that says all there is to say in its message; what else there is has a note added.
    """
    if isinstance(error, VloraError) and not isinstance(error, OutOfMemoryError):
        msg = f"{error}; {kept}"
        raise type(error)(msg) from None
    error.add_note(kept)


def _let_go_of_frames(error: BaseException) -> None:
    """Free what the functions held that an error has ended; saving needs memory, too."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__context__
    mx.clear_cache()


@contextmanager
def _written(features: Features) -> Iterator[None]:
    """Write in the end, however it comes, the features that still wait for company."""
    try:
        yield
    except BaseException:
        # Where there was no memory for a step there may be none for this either; the step's error is the one to tell.
        with suppress(RuntimeError, MemoryError):
            features.flush()
        raise
    features.flush()


@contextmanager
def _settled() -> Iterator[None]:
    """Wait in the end, however it comes, for what the device works on: what that reads may be gone afterwards."""
    try:
        yield
    finally:
        # What it failed with has either been raised already, or is nobody's business any more.
        with suppress(RuntimeError):
            mx.synchronize()


@attrs.define(eq=False)
class _Run:
    recipe: Recipe
    data: Data
    backbone: models.MlxVlmBackbone
    config: Mapping[str, Any]
    features: Features
    reader: DataLoader
    found: checkpoint.Found | None
    rules: Rules
    learned: Learned
    unasked: str | None = attrs.field(default=None, init=False)
    done: int = attrs.field(default=0, init=False)
    saved: int | None = attrs.field(default=None, init=False)
    cuts: CutCounts = attrs.field(init=False)
    has_told_validation: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        """Go on counting where the run has come to."""
        notes = {} if self.found is None else self.found.notes
        self.cuts = CutCounts.loads(notes[CUTS]) if CUTS in notes else CutCounts()

    @property
    def paths(self) -> OutputPaths:
        return output_paths(self.recipe)

    def run(self, *, should_stop: Callable[[], bool]) -> Iterator[Event]:
        train = self.recipe.train
        if not self.data.files.family.is_proven or train.batching == "packed":
            self._probe()
        optimizer = make_optimizer(self.recipe.optim)
        state = init_state(self.backbone, optimizer)
        if self.found is not None:
            state = checkpoint.load_state(self.found.path, state, is_checked=True)
        first = int(state.step)
        course = self._make_source(first)
        self._refuse_fewer(course.count_at(first), first)
        loop = TrainLoop(
            make_recipe_step(self.recipe, self.backbone, optimizer, state, rules=self.rules),
            state,
            lambda step: learning_rate_at(step, course.count_at(step), self.recipe.optim, self.rules),
            # The first one too: how long it took is told when it is over, not when the next shape is traced.
            needs_sync=lambda step: step == first + 1 or self._is_asked_for(step, course.count_at(step)),
            should_stop=should_stop,
            hold=self.reader.workers.hold,
            release=self.reader.workers.release,
            sums=self._read_sums(),
        )
        # The loop's alone: whoever holds a state besides, holds a second one during the next step.
        del state
        unbind(self.backbone)
        metrics, notes = self._open_files(first, is_over=first == course.count_at(first))
        started = self._describe(course, first)
        yield started
        metrics.write_start(started.device, first)
        yield from notes
        yield from self._tell_first_cuts()
        self.done, self.saved = first, None if self.found is None else first
        try:
            yield from self._carry_through(loop, course, metrics)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OutOfMemoryError):
                _let_go_of_frames(error)
            kept = yield from self._rescue(loop, course, metrics)
            if kept is None:
                raise
            _add(error, kept)
            raise

    def _carry_through(self, loop: TrainLoop, course: "_BatchSource", metrics: MetricsLog) -> Iterator[Event]:
        """Take all steps, with what comes before and after them."""
        validate = self._make_validation(metrics)
        if self.found is None:
            yield from self._answer("before", loop.state, metrics, _never)
            yield from validate(loop.state, _never)
        elif metrics.is_marked:
            # What the run was ended in, if it was; all else has been done.
            yield from self._follow_up(loop, course, metrics, validate, is_again=True)
        yield from self._train(loop, course, metrics, validate)
        yield self._save(loop, self.paths.weights, course, metrics)
        yield from self._take_notes()
        if self.done == course.count_at(self.done):
            yield from self._answer("after", loop.state, metrics, loop.should_stop)
        yield self._finish(self.done, course.count_at(self.done), loop)

    def _train(
        self, loop: TrainLoop, course: "_BatchSource", metrics: MetricsLog, validate: Validate
    ) -> Iterator[Event]:
        """Take the steps."""
        for step, report in loop.take(foresee(self.recipe, self.backbone, course.batches)):
            yield from self._take_notes()
            yield from self._count(step, report, course, metrics)
            yield from self._follow_up(loop, course, metrics, validate)
            if loop.is_stopped and metrics.has_steps:
                yield metrics.write_interval(self.features.counts, is_provisional=True)

    def _count(
        self, step: int, report: StepReport | None, course: "_BatchSource", metrics: MetricsLog
    ) -> Iterator[Event]:
        """Count a step as done, and tell what it was; None for one that was passed over."""
        if report is not None:
            metrics.add(report)
            self.learned.add(report.rows)
        self.done = step
        if report is not None:
            yield attrs.evolve(report, n_steps=course.count_at(step))
            yield from self._count_cuts(report.cuts)

    def _follow_up(
        self,
        loop: TrainLoop,
        course: "_BatchSource",
        metrics: MetricsLog,
        validate: Validate,
        *,
        is_again: bool = False,
    ) -> Iterator[Event]:
        """Report, validate and save behind a step what is due there; again only what has not been done."""
        train, step, n_steps = self.recipe.train, self.done, course.count_at(self.done)
        if metrics.has_steps and is_due(step, train.steps_per_report, n_steps):
            yield metrics.write_interval(self.features.counts)
        if metrics.validated < step and is_due(step, train.steps_per_eval, n_steps):
            is_left = yield from validate(loop.state, _never if is_again else loop.should_stop)
            loop.is_stopped |= is_left
        # The end of the run is saved under its own name.
        if step < n_steps and is_due(step, train.steps_per_save, n_steps):
            path = self.paths.numbered(step)
            if not (is_again and path.exists()):
                yield self._save(loop, path, course, metrics)

    def _rescue(
        self, loop: TrainLoop, course: "_BatchSource", metrics: MetricsLog
    ) -> Generator[Event, None, str | None]:
        """Save the steps before an error, if they can still be read and written.

        Returns:
            What `--resume` goes on from; None where nothing was learned.
        """
        # What the device failed with, it may fail with again.
        with suppress(OSError, RuntimeError, MemoryError, VloraError):
            for step, report in loop.read_begun():
                yield from self._count(step, report, course, metrics)
        step = self.done
        if step != self.saved and step:
            with suppress(OSError):
                if metrics.has_steps:
                    yield metrics.write_interval(self.features.counts, is_provisional=True)
            with suppress(OSError, RuntimeError, MemoryError, VloraError):
                if int(loop.state.step) == step:
                    yield self._save(loop, self.paths.weights, course, metrics)
        if self.saved is None:
            return "no step has been saved" if step else None
        if self.saved == step:
            return f"the {step} steps before it are saved, and --resume goes on from there"
        return f"--resume goes on from step {self.saved}, which was saved last"

    def _read_sums(self) -> tuple[float, float]:
        """Read what the running loss was the mean of where the run goes on; older states do not say it."""
        nll, supervised = json.loads("[0, 0]" if self.found is None else self.found.notes.get(SUMS, "[0, 0]"))
        return float(nll), float(supervised)

    def _tell_first_cuts(self) -> Iterator[Warned]:
        """Say of the rows that were read before the first step which were cut; they are counted when it is done."""
        if self.reader.first_cuts:
            found = CutCounts().add(self.reader.first_cuts).describe()
            yield Warned(message=f"of those read so far {found}; data.on_long_row says what happens to such rows")

    def _count_cuts(self, cuts: Sequence[Cut]) -> Iterator[Warned]:
        """Count the rows of a step that were cut; the first ones of a run are told where they are met."""
        is_told = self.cuts.n_rows > 0 or bool(self.reader.first_cuts)
        self.cuts = self.cuts.add(cuts)
        if cuts and not is_told:
            yield Warned(message=f"{self.cuts.describe()}; metrics.jsonl counts those that follow")

    def _tell_cuts_of_validation(self, cuts: CutCounts) -> Iterator[Warned]:
        """Say once which rows to validate on were cut: they are the same every time."""
        if cuts.n_rows and not self.has_told_validation:
            self.has_told_validation = True
            yield Warned(message=f"validation: {cuts.describe()}")

    def _open_files(self, first: int, *, is_over: bool) -> tuple[MetricsLog, list[Warned]]:
        """Begin the files of a run, or go on with them; the notes say what became of those of an earlier one."""
        found, notes = self.found, []
        if found is not None:
            checkpoint.settle_state(found, self.paths.state)
            if found.damaged is not None:
                notes.append(Warned(message=f"{found.damaged}; going on from the one before it, after step {first}"))
        else:
            is_full = self.recipe.model.full_finetune
            model_files = [file.name for file in models.companions(self.data.files, NOT_A_MODELS)] if is_full else []
            if (earlier := archive_previous_run(self.recipe, model_files)) is not None:
                notes.append(Warned(message=_describe_earlier(self.paths, earlier)))
        metrics = MetricsLog.open(
            self.paths.metrics,
            None if found is None else first,
            None if found is None else found.notes.get(REPORTS),
            is_over=is_over,
        )
        checkpoint.write_text(self.paths.folder / RECIPE_NAME, dump_recipe(self.recipe))
        return metrics, notes

    def _refuse_fewer(self, n_steps: int, first: int) -> None:
        if first > n_steps:
            key = "train.iters" if self.recipe.train.epochs is None else "train.epochs"
            msg = f"{key}: the recipe has {n_steps} steps, of which {first} are done ({self.paths.state}); raise it"
            raise CheckpointError(msg)

    def _make_source(self, first: int) -> "_BatchSource":
        """Lay out the steps behind those that were done before."""
        train, data, n_rows = self.recipe.train, self.recipe.data, len(self.data.train)
        # Rows of a whole step at least: while it runs nothing else makes room for more.
        n_ahead = max(data.prefetch, train.gradient_accumulation_steps)
        found = self.found.notes.get(PROGRESS) if self.found is not None else None
        packed = packed_source(self.recipe, n_rows, first, found)
        if packed is None:
            n_steps = count_steps(train, n_rows)
            plan = step_batches(
                n_rows,
                train.batch_size,
                accumulation=train.gradient_accumulation_steps,
                seed=train.seed,
                shuffle=data.shuffle,
                n_steps=n_steps,
                first_step=first,
                measure=self.reader.measure() if train.batching == "grouped" else None,
            )
            per_epoch = steps_per_epoch(n_rows, train.batch_size, train.gradient_accumulation_steps)
            batches = self.reader.collate(self.data.train, plan, n_ahead)
            return _BatchSource(
                batches=self.reader.prime(batches, per_epoch, is_new=not first), count_at=lambda _: n_steps
            )
        batches = self.reader.pack(self.data.train, packed, n_ahead)
        return _BatchSource(
            # How many steps the epochs take shows with the first one.
            batches=self.reader.prime(batches, 1, is_new=not first),
            count_at=packed.count_at,
            progress_at=lambda step: packed.progress_at(step).dumps(),
            is_estimated=train.epochs is not None,
        )

    def _is_asked_for(self, step: int, n_steps: int) -> bool:
        """Whether the state behind a step is saved or validated."""
        train = self.recipe.train
        validates = self.data.valid is not None and is_due(step, train.steps_per_eval, n_steps)
        return validates or is_due(step, train.steps_per_save, n_steps)

    def _describe(self, course: "_BatchSource", first: int) -> Started:
        module = self.backbone.module
        return Started(
            device=describe_device(),
            model_type=self.data.files.model_type,
            n_rows=len(self.data.train),
            n_valid_rows=0 if self.data.valid is None else len(self.data.valid),
            n_steps=course.count_at(first + 1),
            is_estimated=course.is_estimated,
            first_step=first,
            n_params=count_parameters(module),
            n_trainable=sum(value.size for _, value in tree_flatten(module.trainable_parameters())),
            adapted=tuple(summarize(name for name, _ in lora_layers(module))),
            columns=self.data.train.describe_columns(),
            features=self.features.description,
            template=self.data.encoder.describe_template(),
            head=self.backbone.describe_head(),
        )

    def _take_notes(self) -> Iterator[Skipped | Warned]:
        yield from (Skipped(reason=reason) for reason in self.reader.drain_skipped())
        yield from (Warned(message=message) for message in self.features.drain_warnings())

    def _make_validation(self, metrics: MetricsLog) -> Validate:
        rows, train = self.data.valid, self.recipe.train
        if rows is None:
            return _nothing
        eval_step = make_eval_step(self.backbone)
        # The same rows every time, drawn once: the first ones of a sorted set would not stand for it.
        plan = epoch_batches(len(rows), train.batch_size, seed=train.seed, epoch=0, shuffle=True)
        n_batches = None if train.val_batches == -1 else train.val_batches
        plan = plan[:n_batches]
        n_ahead = self.recipe.data.prefetch

        def validate(state: TrainState, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
            n_rows, cuts = 0, CutCounts()

            def batches() -> Iterator[Batch]:
                nonlocal n_rows, cuts
                packed = packed_eval_source(self.recipe, len(rows))
                if packed is None:
                    steps = self.reader.collate(rows, ([numbers] for numbers in plan), n_ahead)
                else:
                    steps = self.reader.pack(rows, packed, n_ahead)
                for found in itertools.islice(foresee(self.recipe, self.backbone, steps), n_batches):
                    if should_stop():
                        return
                    n_rows += sum(len(batch.rows) for batch in found)
                    cuts = cuts.add(list(find_cuts(found)))
                    yield from found

            with naming_shortage("validation"):
                loss, tokens = evaluate(eval_step, state, batches())
            if should_stop():
                # Of some of the rows only, perhaps.
                return True
            if not math.isfinite(loss):
                msg = f"validation: the loss is {loss}; lower optim.learning_rate or set optim.grad_clip"
                raise NonFiniteError(msg)
            yield from self._take_notes()
            yield from self._tell_cuts_of_validation(cuts)
            if not tokens:
                yield Warned(message=f"validation: of the rows of {rows.name} that were read none can be learned from")
                return False
            step = int(state.step)
            yield metrics.write({"step": step, "valid_loss": loss, "valid_tokens": tokens, "valid_rows": n_rows})
            metrics.validated = step
            return False

        return validate

    def _answer(
        self, when: str, state: TrainState, metrics: MetricsLog, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        section, rows = self.recipe.eval, self.data.valid
        if not section.answer_rows or rows is None:
            return
        total = len(rows) if section.answer_rows == -1 else min(section.answer_rows, len(rows))
        right = done = 0
        last: Generated | None = None
        with self._bound(state), models.generating(self.backbone) as module:
            for number in range(total):
                if should_stop():
                    yield Warned(message=f"answers {when} training: stopped after {done} of {total} rows")
                    return
                try:
                    with naming_shortage(f"answering a row {when} training", remedy=FEWER_ANSWERS):
                        expected, found = models.answer_sample(module, self.data.encoder, rows[number], section)
                except SampleError as error:
                    self.reader.skip(error)
                    total -= 1
                    yield from self._take_notes()
                    continue
                except AnswerError as error:
                    self.unasked = str(error)
                    yield Warned(message=f"answers {when} training: {error}; accuracy left out")
                    return
                self.unasked = None
                if last is not None:
                    yield attrs.evolve(last, total=total)
                done, right = done + 1, right + (expected == found)
                # Told when the next one is there: rows behind it that cannot be read would change the total.
                last = Generated(
                    when=when, done=done, total=total, accuracy=right / done, expected=expected, found=found
                )
        if last is None:
            return
        yield attrs.evolve(last, total=total)
        metrics.accuracy[f"accuracy_{when}"] = last.accuracy
        yield metrics.write({"step": int(state.step), **metrics.accuracy})

    @contextmanager
    def _bound(self, state: TrainState) -> Iterator[None]:
        """Let the model hold a state's parameters for the time being."""
        bind(self.backbone, state)
        try:
            yield
        finally:
            unbind(self.backbone)

    @naming_shortage("saving")
    def _save(self, loop: TrainLoop, path: Path, course: "_BatchSource", metrics: MetricsLog) -> Saved:
        state, step = loop.state, int(loop.state.step)
        if not all_finite(state):
            msg = f"step {step}: the trained weights have overflowed; lower optim.learning_rate"
            raise NonFiniteError(msg)
        if self.recipe.model.full_finetune:
            with self._bound(state):
                checkpoint.write_whole_folder(path, self._write_model)
        else:
            own = dict(tree_flatten(self.backbone.module.trainable_parameters()))
            params = {name: value.astype(own[name].dtype) for name, value in state.params.items()}
            checkpoint.save_adapter(path, adapter_state_dict(self.backbone.module, params), self.config)
            if self.data.files.added and path == self.paths.weights:
                with self._bound(state):
                    checkpoint.write_whole_folder(self.paths.base, self._write_model)
        if self.saved != step:
            self._save_state(loop, course.progress_at(step), metrics)
            self.saved = step
        return Saved(path=path, step=step)

    def _write_model(self, folder: Path) -> None:
        models.save_model(self.backbone, self.data.files, folder, NOT_A_MODELS, self.data.encoder.tokenizer)

    def _save_state(self, loop: TrainLoop, progress: str | None, metrics: MetricsLog) -> None:
        notes = describe_settings(self.recipe, len(self.data.train), self.data.encoder.template) | {
            NOTE: self.rules.dumps(),
            REPORTS: metrics.mark(self.features.counts).dumps(),
            SUMS: json.dumps(loop.sums),
            consumed.NOTE: self.learned.write(),
        }
        if progress is not None:
            notes[PROGRESS] = progress
        notes |= {CUTS: self.cuts.dumps()} if self.cuts.n_rows else {}
        # Whoever goes on from the state finds the features that this run has found, to the last bit, and its metrics.
        self.features.flush()
        if self.paths.metrics.is_file():
            checkpoint.sync(self.paths.metrics)
        checkpoint.save_state(self.paths.state, loop.state, notes)

    def _finish(self, step: int, n_steps: int, loop: TrainLoop) -> Finished:
        image, question = self._write_example()
        is_full = self.recipe.model.full_finetune
        base = str(self.paths.base) if self.data.files.added else self.recipe.model.path
        return Finished(
            step=step,
            n_steps=n_steps,
            model=str(self.paths.weights) if is_full else str(self.data.files.path if "builtin:" in base else base),
            adapter=None if is_full else self.paths.weights,
            example_image=image,
            example_question=question,
            max_new_tokens=self.recipe.eval.max_new_tokens,
            n_skipped=len(self.reader.skipped),
            n_traces=loop.train_step.n_traces,
            trace_s=loop.trace_s,
            config_differs_upstream=self.data.files.config_differs_upstream
            and not is_full
            and not self.data.files.added,
            difference=models.DIFFERENCES.get(self.data.files.model_type),
            unasked=self.unasked,
            features=self.features.counts,
            cuts=self.cuts,
        )

    def _write_example(self) -> tuple[Path | None, str]:
        """Write an image to ask the model about, of the first row that can be read; give it and a question."""
        rows, section = self.data.train if self.data.valid is None else self.data.valid, self.recipe.data
        for number in range(min(PROBE_READS, len(rows))):
            try:
                sample = self.data.encoder.write_boxes(rows[number])
                images = [
                    models.open_image(
                        image,
                        sample.source,
                        section.image_resize_shape,
                        section.max_pixels,
                        allow_urls=section.allow_urls,
                    )
                    for image in sample.images[:1]
                ]
            except SampleError:
                # The run is over and saved: whoever had to hear of this row has.
                continue
            question = next((turn.text for turn in sample.turns if turn.role == "user"), ANY_QUESTION)
            path = self.paths.folder / EXAMPLE_NAME
            for image in images:
                checkpoint.write_whole(path, image.save)
            try:
                models.check_question(self.backbone.module, self.data.encoder, sample)
            except SampleError:
                continue
            except AnswerError as error:
                self.unasked = str(error)
            return path if images else None, question
        return None, ANY_QUESTION

    @naming_shortage("trying the model on the first rows")
    def _probe(self) -> None:
        numbers = range(min(PROBE_READS, len(self.data.train)))
        examples = self.reader.peek(self.data.train, numbers)
        examples.sort(key=lambda example: len(example.tokens))
        if examples:
            # The shortest, the longest and one between: padding and company differ the most.
            places = sorted({0, len(examples) // 2, len(examples) - 1})[:PROBE_ROWS]
            chosen, model_type = [examples[place] for place in places], self.data.files.model_type
            if not self.data.files.family.is_proven:
                models.check_family(self.backbone, chosen, model_type)
            if self.recipe.train.batching == "packed":
                length = self.recipe.train.pack_length or self.recipe.data.max_seq_length
                models.check_packing(self.backbone, chosen, length, model_type)


@attrs.frozen(kw_only=True)
class _BatchSource:
    """The steps that a run is to take.

    Attributes:
        batches: Microbatches, step by step.
        count_at: How many steps the run has, as far as it is known behind a step.
        progress_at: What the training state has to say of the run's progress behind a step, besides the step.
        is_estimated: Whether the number of steps is known at the end only.
    """

    batches: Iterator[list[Batch]]
    count_at: Callable[[int], int]
    progress_at: Callable[[int], str | None] = lambda _: None
    is_estimated: bool = False
