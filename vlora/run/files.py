"""The files of a run: what an earlier one has left is cleared up or gone on with, and its own are begun."""

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from .. import models
from ..cuts import CutCounts
from ..data.rows import RowDataset
from ..errors import CheckpointError
from ..events import Warned
from ..output import checkpoint
from ..output.archive import archive_previous_run, complete_setting_aside, refuse_links, remove_partials
from ..output.atomic import write_text
from ..output.checkpoint import Found
from ..output.metrics_log import MetricsLog
from ..output.metrics_resume import resume_metrics
from ..output.numbered import Numbered
from ..output.paths import RECIPE_NAME, OutputPaths
from ..output.predictions_log import PredictionsLog
from ..recipe.parse import dump_recipe
from ..recipe.schema import DataSection
from . import consumed, unchanged
from .choose import begin_choice
from .consumed import Learned
from .context import RunContext
from .save import NOT_A_MODELS
from .source_counts import SourceCounts
from .started import describe_earlier


def clear_up(paths: OutputPaths, *, resume: bool, or_start: bool) -> Generator[Warned, None, bool]:
    """Complete or remove what a killed run has left in the folder, and say what is not proven of this one.

    Returns:
        Whether the run goes on from a state: what was being set aside is none to go on from.
    """
    completed = complete_setting_aside(paths.folder)
    remove_partials(paths)
    if completed is not None:
        yield Warned(message=describe_earlier(paths, completed))
    if (unproven := models.describe_unproven()) is not None:
        yield Warned(message=unproven)
    resume = resume and (checkpoint.has_state(paths.state) or not or_start)
    if resume:
        refuse_links(paths)
    return resume


def find_learned(
    section: DataSection, paths: OutputPaths, found: Found | None, rows: RowDataset
) -> tuple[Learned, list[Warned]]:
    """Find the rows that a resumed run has learned, and check that they are unchanged.

    Raises:
        CheckpointError: They are not, and the recipe does not allow it.
    """
    path, allows = paths.state.with_name(consumed.NAME), section.allow_changed_rows
    if found is None:
        return consumed.begin(path, rows.n_marks), []
    try:
        learned, changed = unchanged.go_on(path, found.metadata.learned, rows)
    except CheckpointError as error:
        if not allows:
            raise
        return consumed.begin(path, rows.n_marks), [Warned(message=str(error))]
    if not changed:
        return learned, []
    named = unchanged.describe_changes(changed, rows.name)
    what = f"{len(changed):,} of the rows that were learned have changed since, {named}"
    if not allows:
        remedy = "put them back, begin anew without --resume, or go on all the same with"
        msg = f"{found.path}: {what}; {remedy} --set data.allow_changed_rows=true"
        raise CheckpointError(msg)
    return learned, [Warned(message=f"{what}; the run goes on all the same, as data.allow_changed_rows has it")]


def open_files(run: RunContext, first: int, stack: ExitStack) -> list[Warned]:
    """Begin the files of a run, or go on with them; the warnings say what became of those of an earlier one.

    Only the first of several ranks does. What the others write is gone with them: each counts for itself.
    """
    found, paths, warnings = run.found, run.paths, []
    run.sources = SourceCounts.begin(run.data.train, run.metadata.sources)
    if not run.ranks.is_first:
        paths = attrs.evolve(paths, folder=Path(stack.enter_context(TemporaryDirectory(prefix="vlora-rank-"))))
    if found is not None:
        if run.ranks.is_first:
            checkpoint.settle_state(found, paths.state)
        if found.damaged is not None:
            warnings.append(Warned(message=f"{found.damaged}; going on from the one before it, after step {first}"))
        run.cuts = CutCounts() if found.metadata.cuts is None else CutCounts.loads(found.metadata.cuts)
        if found.metadata.numbered is not None:
            run.numbered = Numbered.loads(found.metadata.numbered)
    elif run.ranks.is_first:
        is_full = run.recipe.model.full_finetune
        model_files = [file.name for file in models.companions(run.data.files, NOT_A_MODELS)] if is_full else []
        if (earlier := archive_previous_run(run.recipe, paths, model_files)) is not None:
            warnings.append(Warned(message=describe_earlier(paths, earlier)))
    warnings += begin_choice(run, first)
    if found is None:
        run.metrics = MetricsLog.begin(paths.metrics)
    else:
        stopped = run.choice.has_stopped(run.recipe.train.early_stopping_patience)
        is_over = stopped or first == run.source.n_steps(first)
        run.metrics = resume_metrics(paths.metrics, first, run.metadata.metrics, is_over=is_over)
    run.predictions = PredictionsLog.open(paths.predictions, run.metrics, None if found is None else first)
    if run.ranks.is_first:
        write_text(paths.folder / RECIPE_NAME, dump_recipe(run.recipe))
    return warnings
