"""A model evaluated by its answers, apart from any run: nothing is trained, and only the answers are written."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import attrs

from .. import models
from ..build import Data, load_model, load_rows
from ..compilation import known_kernels
from ..data.examples import raise_unless_skipped
from ..data.prefetch import WorkerPool, count_workers
from ..data.rows import RowDataset
from ..errors import EvaluationError, RecipeError, SampleError, UnwantedAnswerError
from ..evaluation.metric import Metric
from ..evaluation.metrics import Scores, find_metrics, score
from ..evaluation.prediction import Prediction, dump_prediction, is_prediction
from ..events import Compiled, Compiling, Skipped, Warned, Working
from ..memory.limits import memory_limits, naming_shortage
from ..output.named_files import open_named, write_named
from ..output.paths import ADAPTER_NAME, BEST_FILE, METRICS_NAME, OutputPaths, name_evaluation, output_paths
from ..output.recorded import pin_recorded
from ..recipe.schema import DataSection, Recipe
from ..system.files import expand
from .feature_cache import attach_feature_cache
from .leaks import count_learned
from .predict import describe_unwanted, predict

SINCE = "rows that are there twice, or the rows, data.valid_fraction or train.seed have changed since"
FEWER = "lower eval.batch_size, eval.max_new_tokens or data.max_pixels"


@attrs.frozen(kw_only=True)
class Chosen:
    """What is evaluated.

    Attributes:
        adapter: A saved adapter; without one that of the recipe's run, or its model after full fine-tuning.
        is_base: The model as it is before training.
        split: The rows: "train" for those that the recipe trains on, or another split of its data; the held-out ones
            without it.
        n_rows: How many rows; `eval.answer_rows` without it, or all where that is 0.
        file: Where the answers are written; without it beside the run's metrics, named after what is evaluated.
    """

    adapter: str | None = None
    is_base: bool = False
    split: str | None = None
    n_rows: int | None = None
    file: Path | None = None


@attrs.frozen(kw_only=True)
class Opened:
    """What is going to be evaluated, loaded.

    Attributes:
        name: The model in words.
        step: How many steps it was trained; 0 where that is not known.
        rows: The rows, in words.
        n_rows: How many of them.
        commits: Versions of the hub's files that are those of the run, and not the newest: "model", "data".
    """

    name: str
    step: int
    rows: str
    n_rows: int
    commits: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Evaluated:
    """What was found.

    Attributes:
        metrics: What the answers were measured by.
        predictions: The answers.
        scores: What metrics say of them.
        file: Where they are written.
    """

    metrics: tuple[Metric, ...]
    predictions: list[Prediction]
    scores: Scores
    file: Path


@attrs.define
class _PassedOver:
    """Rows that are not answered.

    Attributes:
        data: Says whether a bad row ends the evaluation.
        skipped: Those that could not be read, as long as they have not been told.
        n_unwanted: How many do not say what would be a right answer.
    """

    data: DataSection
    skipped: list[Skipped] = attrs.field(factory=list)
    n_unwanted: int = 0

    def __call__(self, error: SampleError) -> None:
        """Pass a row over, or raise its error."""
        if isinstance(error, UnwantedAnswerError):
            self.n_unwanted += 1
            return
        raise_unless_skipped(error, self.data)
        self.skipped.append(Skipped(reason=str(error)))


def evaluate_answers(
    recipe: Recipe, chosen: Chosen
) -> Generator[Compiling | Compiled | Working | Opened | Skipped | Warned | Prediction, None, Evaluated]:
    """Answer rows of a recipe with a model of it, and measure the answers.

    Args:
        recipe: The recipe.
        chosen: What is evaluated.

    Yields:
        What is done next; that kernels are compiled, where known ones are missing; that the adapter was trained on
        other weights, if it was, or that earlier answers will be replaced; what is evaluated, once it is loaded, and
        how much of it was learned; then each answer, and each row that was passed over.

    Returns:
        What was found; it is written, too.

    Raises:
        VloraError: There is no such model or no such row, nothing can be answered, or the file holds something else.
    """
    metrics, paths = find_metrics(recipe.eval.metrics), output_paths(recipe)
    recipe, commits = pin_recorded(recipe, paths.folder if chosen.adapter is None else expand(chosen.adapter))
    section, weights = _choose_model(recipe, paths, chosen)
    file = open_named(chosen.file or paths.folder / _name_file(paths, chosen), "--write", is_prediction)
    if chosen.file is None and file.exists():
        yield Warned(message=f"{file} has earlier answers of this model to such rows, which will be replaced")
    steps = 0 if weights is None else _count_steps(paths, weights)
    with ExitStack() as stack:
        stack.enter_context(memory_limits(recipe.memory))
        workers = stack.enter_context(WorkerPool(count_workers(recipe.data.workers)))
        data, rows = yield from _open_meanwhile(known_kernels.begin_for(recipe), section, chosen.split)
        yield Working(what="loading the model")
        with naming_shortage("loading the model"):
            backbone = _load(section, data, is_bare=weights is None or not paths.is_adapter)
        if backbone.base_note is not None:
            yield Warned(message=backbone.base_note)
        features = attach_feature_cache(section, data, backbone)
        features.encoder.prepare(rows.first_samples())
        total = _count_rows(recipe, chosen, rows)
        yield Opened(name=_name(section, weights), step=steps, rows=rows.name, n_rows=total, commits=commits)
        yield from _tell_learned(rows, total, None if rows is data.train else weights)
        yield Working(what="answering", total=total)
        passed_over = _PassedOver(recipe.data)
        answers = predict(
            backbone,
            features.encoder,
            rows,
            models.answer_options(recipe, steps),
            indices=range(total),
            step=steps,
            on_bad_row=passed_over,
            workers=workers,
        )
        predictions = yield from _gather(answers, passed_over.skipped)
        features.flush()
    if passed_over.n_unwanted:
        yield Warned(message=describe_unwanted(passed_over.n_unwanted))
    if not predictions:
        msg = f"none of the {total:,} rows of {rows.name} was answered, so that there is nothing to measure"
        raise EvaluationError(msg)
    scores = _score_into(file, metrics, predictions)
    return Evaluated(metrics=metrics, predictions=predictions, scores=scores, file=file)


def _score_into(file: Path, metrics: tuple[Metric, ...], predictions: list[Prediction]) -> Scores:
    """Score answers and write them to a file.

    Raises:
        EvaluationError: A metric fails; the answers are written without scores.
    """
    try:
        scores = score(metrics, predictions)
    except EvaluationError as error:
        # They took longer than mending a metric does.
        write_named(file, "".join(map(dump_prediction, predictions, score((), predictions).rows)))
        msg = f"{error}; the answers are in {file}, without scores"
        raise EvaluationError(msg) from None
    write_named(file, "".join(map(dump_prediction, predictions, scores.rows)))
    return scores


def _tell_learned(rows: RowDataset, total: int, weights: Path | None) -> Iterator[Warned]:
    """Say how many of the rows that are answered were learned, if they are held out and something was."""
    if weights is not None and (n_learned := count_learned(rows, total, weights)):
        yield Warned(message=f"{n_learned:,} of these {total:,} rows are among those that the run has learned: {SINCE}")


def _gather(
    answers: Generator[Prediction, None, None], skipped: list[Skipped]
) -> Generator[Skipped | Prediction, None, list[Prediction]]:
    """Yield answers as they come, and before each the rows that were passed over; give all answers."""
    predictions = list[Prediction]()
    with closing(answers):
        while True:
            with naming_shortage("answering rows", remedy=FEWER):
                prediction = next(answers, None)
            yield from skipped
            skipped.clear()
            if prediction is None:
                return predictions
            predictions.append(prediction)
            yield prediction


def _name_file(paths: OutputPaths, chosen: Chosen) -> str:
    """Name the file of the answers by what is evaluated, so that those of other models and rows stay."""
    what = [] if chosen.split is None else [chosen.split]
    if chosen.is_base:
        return name_evaluation("base", *what)
    if chosen.adapter is None:
        return name_evaluation(*what)
    weights = expand(chosen.adapter).resolve()
    own = paths.weights.resolve()
    if weights in (own, own.parent):
        return name_evaluation(*what)
    # Most adapters have one file name, and are told apart by their folders.
    return name_evaluation(weights.parent.name if weights.name == ADAPTER_NAME else weights.stem, *what)


def _choose_model(recipe: Recipe, paths: OutputPaths, chosen: Chosen) -> tuple[Recipe, Path | None]:
    """Give the recipe of what is evaluated, and its adapter or trained model; None for the base.

    Raises:
        RecipeError: It is not there.
    """
    is_full, model = recipe.model.full_finetune, recipe.model
    frozen = attrs.evolve(model, adapter_path=None, add_tokens=(), full_finetune=False, train_vision=False)
    # Nothing is written there; the model that is read may lie where the recipe's would be.
    unwritten = attrs.evolve(recipe.output, path=str(paths.weights.with_name(f"{paths.weights.name}-evaluated")))
    if chosen.is_base:
        return attrs.evolve(recipe, model=frozen, output=unwritten), None
    if chosen.adapter is not None and is_full:
        msg = "--adapter: model.full_finetune = true trains no adapter; leave --adapter out, or give --base"
        raise RecipeError(msg)
    weights = paths.weights if chosen.adapter is None else expand(chosen.adapter)
    if not weights.exists():
        key = "output.path" if chosen.adapter is None else "--adapter"
        msg = f"{key}: there is nothing at {weights}; train first, or evaluate the untrained model with --base"
        raise RecipeError(msg)
    if not is_full:
        return attrs.evolve(recipe, model=attrs.evolve(model, adapter_path=str(weights)), output=unwritten), weights
    return attrs.evolve(recipe, model=attrs.evolve(frozen, path=str(weights), revision=None), output=unwritten), weights


def _open_meanwhile(
    compilation: known_kernels.Compilation, recipe: Recipe, split: str | None
) -> Generator[Compiling | Compiled | Working, None, tuple[Data, RowDataset]]:
    """Open the rows while workers compile kernels."""
    if compilation.announced is not None:
        yield compilation.announced
    yield Working(what="reading the rows")
    found = _open_rows(recipe, split)
    if (compiled := compilation.wait()) is not None:
        yield compiled
    return found


def _open_rows(recipe: Recipe, split: str | None) -> tuple[Data, RowDataset]:
    """Open the rows that are answered.

    Raises:
        RecipeError: There are none.
    """
    if split is not None and split not in ("train", recipe.data.split, recipe.data.valid_split):
        section = attrs.evolve(recipe.data, valid_split=split, valid_path=None, valid_fraction=0.0)
        recipe = attrs.evolve(recipe, data=section)
    try:
        data = load_rows(recipe)
    except RecipeError as error:
        if split is not None:
            error.rename({"data.valid_split": "--split"})
        raise
    if split in ("train", recipe.data.split):
        return data, data.train
    if data.valid is None:
        msg = "the recipe holds out no rows; name some with data.valid_split, or give --split train"
        raise RecipeError(msg)
    return data, data.valid


def _load(recipe: Recipe, data: Data, *, is_bare: bool) -> models.MlxVlmBackbone:
    if is_bare:
        return models.load_backbone(data.files, recipe.model)[0]
    return load_model(recipe, data.files)[0]


def _count_rows(recipe: Recipe, chosen: Chosen, rows: RowDataset) -> int:
    wanted = chosen.n_rows or recipe.eval.answer_rows
    return len(rows) if wanted in (0, -1) else min(wanted, len(rows))


def _count_steps(paths: OutputPaths, weights: Path) -> int:
    """Find out how many steps were taken, by a checkpoint's name, the note of the best state or the run's metrics."""
    if paths.is_numbered(weights):
        return int(weights.name[:7] if paths.is_adapter else weights.name[-7:])
    folder = weights if weights.is_dir() else weights.parent
    note = folder / BEST_FILE
    file = note if note.is_file() else folder / METRICS_NAME
    try:
        *_, last = file.read_text(encoding="utf-8").splitlines()
        return int(json.loads(last)["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _name(recipe: Recipe, weights: Path | None) -> str:
    if weights is None:
        return f"{recipe.model.path}, untrained"
    return str(weights)
