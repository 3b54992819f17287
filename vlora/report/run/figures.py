"""The charts of a run. Pure."""

from collections.abc import Iterator, Mapping
from statistics import fmean

from ...evaluation.metrics import METRICS
from ...measured import ACCURACIES, CHOSEN, MARGINS, REJECTED
from ..charts.chart import Chart, Line, Mark
from .run_files import RunRecord, Series

VALID_LOSS = "valid_loss"

LOSSES = "Loss"

MEANS = 20
"""A mean of losses is over this part of a run's reports."""

UNITS, OF_PAIRS, OF_ANSWERS = "nats per supervised token", "mean over pairs", "mean over answers"
"""What losses are: of fine-tuning, and over preferences."""

SFT = "sft"
"""The objective whose loss is one of tokens."""

VALID = "valid_"

PREFERENCES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Margin of rewards", "better answer ahead", {MARGINS: "train", VALID + MARGINS: "validation"}),
    ("Better answers ahead", "share of pairs", {ACCURACIES: "train", VALID + ACCURACIES: "validation"}),
    ("Rewards", "train", {CHOSEN: "better answers", REJECTED: "worse answers"}),
    ("Log-probabilities", "train, summed", {"logps/chosen": "better answers", "logps/rejected": "worse answers"}),
    ("Entropy", "train, nats", {"entropy": "of the next token"}),
    ("Divergence", "train, nats", {"kl": "from the reference"}),
)
"""As `OTHERS`, of runs over preferences."""

SCORED = {
    MARGINS: "margin",
    ACCURACIES: "better answers ahead",
    VALID + MARGINS: "validation margin",
    VALID + ACCURACIES: "better answers ahead, validation",
}
"""Numbers of preferences that are scores of a run, those of training where there is no validation."""

OTHERS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Learning rate", "", {"learning_rate": "learning rate"}),
    ("Gradient norm", "before clipping", {"grad_norm": "gradient norm"}),
    ("Speed", "tokens/s", {"tokens_per_s": "tokens/s"}),
    (
        "Memory",
        "GB",
        {"peak_memory_gb": "peak", "active_memory_gb": "in use", "cache_memory_gb": "kept for reuse"},
    ),
    ("Waiting for rows", "seconds per report", {"wait_s": "waiting"}),
    ("Padding", "share of places", {"padding": "padding"}),
)
"""Title, unit, and the numbers of metrics.jsonl with their names in the legend."""

FROM_ZERO = frozenset({"Learning rate", "Speed", "Memory", "Waiting for rows", "Padding"})

EVAL, LOW, HIGH = "eval_", "_low", "_high"
"""Prefix of the numbers of a round of answers, and suffixes of the ends of their intervals."""

WRITTEN = {
    "anls": "ANLS",
    "bleu": "BLEU",
    "box_acc_50": "boxes right at 0.5",
    "box_iou": "box IoU",
    "cer": "CER",
    "chrf": "chrF",
    "json_fields": "JSON fields",
    "json_valid": "JSON valid",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "vqa_accuracy": "VQA accuracy",
    "wer": "WER",
}
"""Metrics whose readable names are not their own words."""

NOT_METRICS = frozenset({"eval_rows", "eval_seconds", "eval_s"})

OLDER_METRIC, OLDER_NAMES = "accuracy", ("accuracy_before", "accuracy_after")
"""Exact answers of runs that counted them before and after training only: their name here, and in metrics.jsonl."""


def loss_chart(run: RunRecord) -> Chart:
    """Make the chart of losses: of reports, means of many of them, and of validations with the best one marked."""
    reports = run["loss"]
    n_together = len(reports.steps) // MEANS
    best = run[VALID_LOSS].best()
    marks = () if best is None else (Mark(x=best[0], y=best[1], text=f"best {best[1]:.4f} at step {best[0]:,}"),)
    return Chart(
        title=LOSSES,
        y_label=loss_unit(run),
        lines=(
            _line("train, per report", reports, is_faint=n_together > 1),
            _line(f"train, mean of {n_together} reports", trailing_means(reports, n_together)),
            _line("validation", run[VALID_LOSS]),
        ),
        marks=marks,
    )


def trailing_means(series: Series, n_together: int) -> Series:
    """Return the mean of each value and those before it, as many as are given; nothing for fewer than two."""
    if n_together <= 1:
        return Series()
    values = [fmean(series.values[max(0, end - n_together) : end]) for end in range(1, len(series.values) + 1)]
    return Series(series.steps, tuple(values))


def loss_unit(run: RunRecord) -> str:
    """Say what a run's losses are."""
    if run[ACCURACIES].steps:
        return OF_PAIRS
    if run[CHOSEN].steps or run[REJECTED].steps:
        return OF_ANSWERS
    objective = run.recipe.get("train.objective", SFT)
    return UNITS if objective == SFT else f"mean over what {objective} counts"


def metric_names(run: RunRecord) -> list[str]:
    """Return the names of the metrics of a run's answers in metrics.jsonl."""
    return sorted(name for name in run.series if name.startswith(EVAL) and not _is_end(name, run))


def score_names(run: RunRecord) -> list[str]:
    """Return the names of a run's scores in metrics.jsonl."""
    has_validation = len(run[VALID + MARGINS].steps) > 0
    preferences = [name for name in SCORED if name.startswith(VALID) == has_validation]
    names = [VALID_LOSS, *preferences, *(metric_names(run) or [OLDER_METRIC])]
    return [name for name in names if score_series(name, run).steps]


def score_series(name: str, run: RunRecord) -> Series:
    """Return a score over the steps of a run."""
    if name != OLDER_METRIC:
        return run[name]
    before, after = (run[older] for older in OLDER_NAMES)
    # The accuracy before training is repeated beside the one after it.
    return Series(before.steps[:1] + after.steps[-1:], before.values[:1] + after.values[-1:])


def is_higher_better(name: str) -> bool:
    """Whether higher values of a score are better; not so for losses and error rates."""
    if name == VALID_LOSS:
        return False
    metric = METRICS.get(name.removeprefix(EVAL))
    return metric is None or metric.is_higher_better


def preference_charts(run: RunRecord) -> Iterator[Chart]:
    """Make the charts of margins, rewards, log-probabilities and the like of a run over preferences."""
    for title, unit, names in PREFERENCES:
        lines = tuple(_line(label, run[name]) for name, label in names.items() if run[name].steps)
        if lines:
            yield Chart(title=title, y_label=unit, lines=lines, is_log=False)


def metric_charts(run: RunRecord) -> Iterator[Chart]:
    """Make the charts of answers' metrics, each with its interval."""
    for name in metric_names(run):
        yield Chart(title=name_score(name), lines=(_metric_line(name, run),), is_log=False)
    older = score_series(OLDER_METRIC, run)
    if older.steps and not metric_names(run):
        lines = (_line(name_score(OLDER_METRIC), older),)
        yield Chart(title="Exact answers", y_label="share of rows", lines=lines, is_log=False, from_zero=True)


def other_charts(run: RunRecord) -> Iterator[Chart]:
    """Make the charts of learning rate, gradient norm, speed, memory and waiting times."""
    for title, unit, names in OTHERS:
        lines = tuple(_line(label, run[name]) for name, label in names.items() if run[name].steps)
        if lines:
            from_zero = title in FROM_ZERO
            yield Chart(
                title=title, y_label=unit, lines=lines, is_log=False if from_zero else None, from_zero=from_zero
            )


def name_score(name: str) -> str:
    """Return the readable name of a score."""
    known = {OLDER_METRIC: "exact answers", VALID_LOSS: "validation loss", **SCORED}
    metric = name.removeprefix(EVAL)
    return known.get(name) or WRITTEN.get(metric) or metric.replace("_", " ")


def _is_end(name: str, run: RunRecord) -> bool:
    """Whether a number is an end of an interval or a count of rows, and not a metric."""
    if name in NOT_METRICS:
        return True
    return any(name.endswith(end) and name.removesuffix(end) in run.series for end in (LOW, HIGH))


def _line(label: str, series: Series, *, is_faint: bool = False) -> Line:
    return Line(name=label, xs=series.steps, ys=series.values, is_faint=is_faint)


def _metric_line(name: str, run: RunRecord) -> Line:
    series, low, high = run[name], run[name + LOW], run[name + HIGH]
    has_interval = series.steps == low.steps == high.steps
    return Line(
        name=name_score(name),
        xs=series.steps,
        ys=series.values,
        low=low.values if has_interval else (),
        high=high.values if has_interval else (),
    )
