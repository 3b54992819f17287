"""What a run writes: checkpoints and training states, behind a step, at its end, and where it fails."""

import json
import traceback
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from .. import models
from ..adapters.attached import adapter_state_dict
from ..errors import NonFiniteError, OutOfMemoryError, RanksError, VloraError
from ..events import Event, Saved, Warned
from ..memory.limits import naming_shortage
from ..output import checkpoint
from ..output.archive import starts_from
from ..output.atomic import sync, write_whole_folder
from ..output.lock import LOCK_NAME
from ..output.paths import (
    ADAPTER_NAME,
    BEST_FILE,
    DERIVED_NAMES,
    EVALUATION_NAMES,
    EXAMPLE_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECIPE_NAME,
)
from ..output.resume import run_metadata
from ..output.setting_aside import JOURNAL_NAME
from ..system.files import expand
from ..train.schedules import is_due
from ..train.state import all_finite
from .context import RunContext

OWN_NAMES = (METRICS_NAME, PREDICTIONS_NAME, EVALUATION_NAMES, RECIPE_NAME, EXAMPLE_NAME, BEST_FILE, *DERIVED_NAMES)
LOST_PEER = "connection to a peer was lost"
"""What MLX's ring says when another process has ended."""

NOT_A_MODELS = (*OWN_NAMES, LOCK_NAME, JOURNAL_NAME)
"""Names of files of a run in a model's folder, some as patterns: the base may be the folder of another one."""


def save_numbered(run: RunContext, *, is_again: bool = False) -> Iterator[Event]:
    """Write the numbered checkpoint of the step that is done, if one is due, and remove older ones as the recipe says.

    Args:
        run: The run.
        is_again: It was written already, perhaps: the run goes on from this step.
    """
    step, n_steps, section = run.done, run.n_steps, run.recipe
    # The end of the run is saved under its own name.
    if step < n_steps and is_due(step, section.train.steps_per_save, n_steps):
        path = run.paths.numbered(step)
        is_listed = step in run.numbered.steps and (run.paths.is_adapter or bool(run.numbered.files))
        run.numbered.add(step)
        if not (is_again and is_listed and path.exists()):
            yield save(run, path)
    if not run.ranks.is_first:
        return
    spared = starts_from(section) | {expand(section.model.path).resolve()}
    for problem in run.numbered.keep_newest(section.output.keep_last, run.paths, spared):
        yield Warned(message=problem)


@naming_shortage("saving")
def save(run: RunContext, path: Path) -> Saved:
    """Write the newest state's adapter or model, and the training state unless that is saved already.

    Args:
        run: The run.
        path: The adapter's file, or the model's folder.

    Raises:
        NonFiniteError: The trained weights are not finite; nothing was written.
        OSError: There is no room, or no leave, to write.
    """
    step = _refuse_non_finite(run)

    def write_model(folder: Path) -> None:
        _write_model(run, folder)
        if run.paths.is_numbered(path):
            run.numbered.files = tuple(sorted(file.name for file in folder.iterdir()))

    run.flush_features()
    if not run.ranks.is_first:
        # The first one writes for all.
        run.saved = step
        return Saved(path=path, step=step)
    if run.recipe.model.full_finetune:
        write_whole_folder(path, write_model)
    else:
        _write_adapter(run, path)
        if run.data.files.added and path == run.paths.weights:
            write_whole_folder(run.paths.base, write_model)
    _save_state(run, step)
    return Saved(path=path, step=step)


def save_best(run: RunContext) -> Iterator[Saved]:
    """Write the newest state under the name of the best one, if it is that and the recipe keeps it.

    The training state comes first: one that is gone on from knows which state is the best, and it can be written anew.
    """
    if run.recipe.output.keep_best is None or run.choice.step != run.done:
        return
    run.flush_features()
    if run.ranks.is_first:
        yield _save_best(run)


def save_last_choice(run: RunContext) -> Iterator[Saved]:
    """Save what the answers after training have said of the last state, and keep it if it is the best one.

    The training state stays that of the last step before them: a run that goes on from it asks for them once more.
    """
    if run.ranks.is_first:
        metadata = attrs.evolve(run.saved_as or run.metadata, choice=run.choice.dumps())
        checkpoint.save_state(run.paths.state, run.loop.state, metadata)
    yield from save_best(run)


@naming_shortage("saving the best state")
def _save_best(run: RunContext) -> Saved:
    step = _refuse_non_finite(run)
    _save_state(run, step)

    def write(folder: Path) -> None:
        if run.paths.is_adapter:
            _write_adapter(run, folder / ADAPTER_NAME)
        else:
            _write_model(run, folder)
        note = {"step": step, run.choice.judged_by: run.choice.value}
        (folder / BEST_FILE).write_text(json.dumps(note) + "\n", encoding="utf-8")

    write_whole_folder(run.paths.best, write)
    return Saved(path=run.paths.best, step=step, best=run.best)


def _refuse_non_finite(run: RunContext) -> int:
    """Give the step of the newest state, which is finite."""
    step = int(run.loop.state.step)
    if not all_finite(run.loop.state):
        msg = f"step {step}: the trained weights have overflowed; lower optim.learning_rate"
        raise NonFiniteError(msg)
    return step


def _write_model(run: RunContext, folder: Path) -> None:
    with run.bound():
        models.save_model(run.backbone, run.data.files, folder, NOT_A_MODELS, run.data.encoder.tokenizer)


def _write_adapter(run: RunContext, path: Path) -> None:
    own = dict(tree_flatten(run.backbone.module.trainable_parameters()))
    params = {name: value.astype(own[name].dtype) for name, value in run.loop.state.params.items()}
    checkpoint.save_adapter(path, adapter_state_dict(run.backbone.module, params), run.config)


def _save_state(run: RunContext, step: int) -> None:
    """Write the training state behind a step, unless it is saved already."""
    if run.saved == step:
        return
    metadata = attrs.evolve(
        run_metadata(run.recipe, run.data.train.n_known, run.data.encoder.template),
        position=run.source.position(step),
        rules=run.rules.dumps(),
        metrics=run.metrics.mark(run.features.counts, run.predictions.n_bytes).dumps(),
        sums=run.loop.sums,
        learned=run.learned.write(),
        cuts=run.cuts.dumps() if run.cuts.n_rows else None,
        numbered=run.numbered.dumps() if run.numbered.steps else None,
        choice=run.choice.dumps() if run.data.valid is not None else None,
        commits=json.dumps(run.commits) if run.commits else None,
        base=None if run.backbone.base is None else run.backbone.base.dumps(),
        ranks=run.n_planned,
        sources=run.sources.dumps(),
    )
    # A run that goes on from the state finds the metrics that this run has written.
    if run.paths.metrics.is_file():
        sync(run.paths.metrics)
    run.predictions.sync()
    checkpoint.save_state(run.paths.state, run.loop.state, metadata)
    run.saved, run.saved_as = step, metadata


def rescue(run: RunContext, error: BaseException) -> Generator[Event, None, None]:
    """Save the steps before an error, if they can still be read and written, and add to it what `resume` goes on from.

    Raises:
        VloraError: The error, with that in its message; others have a note added.
    """
    if run.ranks.size > 1:
        _refuse_to_save_alone(run, error)
        return
    if isinstance(error, OutOfMemoryError):
        _release_frames(error)
    # What the device failed with, it may fail with again.
    with suppress(OSError, RuntimeError, MemoryError, VloraError):
        for step, report in run.loop.read_begun():
            yield from run.count(step, report)
    step = run.done
    if step != run.saved and step:
        with suppress(OSError):
            if run.metrics.has_steps:
                yield run.metrics.write_interval(run.features.counts, run.sources.measure(), is_provisional=True)
        with suppress(OSError, RuntimeError, MemoryError, VloraError):
            if int(run.loop.state.step) == step:
                yield save(run, run.paths.weights)
    _add_note(error, _describe_saved(step, run.saved))


def _refuse_to_save_alone(run: RunContext, error: BaseException) -> None:
    """Say what `resume` goes on from where a rank has failed, and save nothing.

    A sum that another rank has not completed may look whole: of the steps since the last save none is to be trusted.
    """
    note = _describe_saved(run.done, run.saved)
    if isinstance(error, RuntimeError) and LOST_PEER in str(error):
        end = "" if note is None else f"; {note}"
        msg = f"step {run.done + 1}: the process of another device was lost ({error}){end}"
        raise RanksError(msg) from None
    _add_note(error, note)


def _describe_saved(step: int, saved: int | None) -> str | None:
    """Say what `--resume` goes on from; None where no step was done."""
    if saved is None:
        return "no step has been saved" if step else None
    if saved == step:
        before = "step before it is" if step == 1 else f"{step} steps before it are"
        return f"the {before} saved, and --resume goes on from there"
    return f"--resume goes on from step {saved}, which was saved last"


def _add_note(error: BaseException, note: str | None) -> None:
    if note is None:
        return
    # Where there was no memory, the message is made anew of what would fit.
    if isinstance(error, VloraError) and not isinstance(error, OutOfMemoryError):
        msg = f"{error}; {note}"
        raise type(error)(msg) from None
    error.add_note(note)


def _release_frames(error: BaseException) -> None:
    """Free what the functions held that an error has ended; saving needs memory, too."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__context__
    mx.clear_cache()
