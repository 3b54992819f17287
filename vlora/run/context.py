"""What a run holds from its first step to its last; `fit` reads as the order in which it is used."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from .. import models
from ..build import Data
from ..cuts import CutCounts
from ..data.batch_source import BatchSource
from ..data.examples import first_examples, raise_unless_skipped
from ..data.loader import DataLoader
from ..errors import SampleError
from ..evaluation.metric import Metric
from ..events import Best, EpochEnded, Event, FeatureCounts, Reported, Skipped, StepReport, Warned
from ..output.checkpoint import Found, RunMetadata
from ..output.metrics_log import MetricsLog
from ..output.numbered import Numbered
from ..output.paths import OutputPaths
from ..output.predictions_log import PredictionsLog
from ..recipe.schema import Recipe
from ..train.loop import TrainLoop
from ..train.ranks import Ranks
from ..train.reference import Reference
from ..train.rules import Rules
from ..train.state import bind, unbind
from ..types import Cut, Example
from .choice import Choice
from .consumed import Learned, parse_mark
from .device_counts import DeviceCounts
from .feature_cache import Features
from .source_counts import SourceCounts
from .validator import Validator


@attrs.define(eq=False, kw_only=True)
class RunContext:
    """What a run consists of. `start` adds what needs a batch, a state or files.

    Attributes:
        recipe: The recipe that it carries out.
        paths: Where it writes.
        found: The training state that it goes on from, if it does.
        rules: Versions of the rules that it follows.
        learned: Which rows it has learned.
        data: Its rows, and what encodes them.
        backbone: The model.
        config: The adapter's configuration.
        features: The features of images that it keeps.
        loader: Reads its rows.
        answer_metrics: What its answers are measured by.
        ranks: Those that carry it out together; all hold the same of what follows but for rows and batches.
        n_planned: Ranks that its steps are planned for: those with which it began.
        source: Its batches.
        reference: What its objective compares with in each step; None if with nothing, or rows bring it.
        loop: Takes the steps, and holds the state.
        metrics: Its metrics.jsonl.
        predictions: Its predictions.jsonl.
        validator: Validates; None where there are no rows for it.
        done: Steps done; their reports were yielded.
        saved: The step behind which a training state was saved last; None if there is none.
        cuts: Rows that were cut, in all steps done.
        n_passed: Steps that were passed over since this process began, without a row that can be learned from.
        sources: What was learned of each source of a mixture, in all steps done.
        devices: What each of several devices has done since this process began.
        numbered: The numbered checkpoints that it has written, and that are there.
        saved_as: What the training state says that was saved last.
        choice: Which of its states is the best one so far.
        has_all_features: Whether this device has taken the features that others computed when all rows were first read.
        has_told_untrained: Whether it was said what the loss is before the first step.
        left_off: What was left off, as in `Finished`.
        unasked: Why mlx-vlm cannot be asked; None as far as it is known to be able to answer.
    """

    recipe: Recipe
    paths: OutputPaths
    found: Found | None
    rules: Rules
    learned: Learned
    data: Data
    backbone: models.MlxVlmBackbone
    config: Mapping[str, Any]
    features: Features
    loader: DataLoader
    answer_metrics: Sequence[Metric]
    ranks: Ranks = attrs.field(factory=Ranks)
    n_planned: int = 1
    source: BatchSource = attrs.field(init=False)
    reference: Reference | None = attrs.field(default=None, init=False)
    loop: TrainLoop = attrs.field(init=False)
    metrics: MetricsLog = attrs.field(init=False)
    predictions: PredictionsLog = attrs.field(init=False)
    validator: Validator | None = attrs.field(default=None, init=False)
    done: int = attrs.field(default=0, init=False)
    saved: int | None = attrs.field(default=None, init=False)
    cuts: CutCounts = attrs.field(factory=CutCounts, init=False)
    n_passed: int = attrs.field(default=0, init=False)
    sources: SourceCounts = attrs.field(init=False)
    devices: DeviceCounts = attrs.field(factory=DeviceCounts, init=False)
    numbered: Numbered = attrs.field(factory=Numbered, init=False)
    saved_as: RunMetadata | None = attrs.field(default=None, init=False)
    choice: Choice = attrs.field(factory=Choice, init=False)
    has_told_untrained: bool = attrs.field(default=False, init=False)
    left_off: tuple[str, ...] = attrs.field(default=(), init=False)
    unasked: str | None = attrs.field(default=None, init=False)
    has_all_features: bool = attrs.field(default=False, init=False)
    _untold: list[StepReport] = attrs.field(factory=list, init=False)
    _n_told: int = attrs.field(default=0, init=False)

    @property
    def metadata(self) -> RunMetadata:
        """What the training state that the run goes on from says of it; nothing where a run begins."""
        return RunMetadata() if self.found is None else self.found.metadata

    @property
    def commits(self) -> dict[str, str]:
        """The versions of the hub's files that it has loaded, "model" and "data"."""
        own = {} if self.data.files.commit is None else {"model": self.data.files.commit}
        return {**own, **self.data.train.commits}

    @property
    def n_steps(self) -> int:
        """Steps of the whole run, as far as their number is known after the steps that are done."""
        return self.source.n_steps(self.done)

    @property
    def is_early(self) -> bool:
        """Whether the run is over before its last step."""
        return self.done < self.n_steps and self.choice.has_stopped(self.recipe.train.early_stopping_patience)

    @property
    def is_over(self) -> bool:
        """Whether all steps are done."""
        return self.done == self.n_steps or self.is_early

    @property
    def best(self) -> Best | None:
        """The best state so far, and where it is kept; None as long as none was judged."""
        best = self.choice.best()
        if best is None or self.recipe.output.keep_best is None:
            return best
        return attrs.evolve(best, path=self.paths.best)

    def judge(self, line: Mapping[str, Any]) -> None:
        """Judge the newest state by what was written of it to metrics.jsonl."""
        if self.choice.judged_by in line:
            min_delta = self.recipe.train.early_stopping_min_delta
            self.choice = self.choice.judge(int(line["step"]), float(line[self.choice.judged_by]), min_delta)

    def drain_events(self) -> Iterator[Skipped | Warned]:
        """Yield which rows were skipped, and what went wrong with kept features, since this was last asked."""
        yield from (Skipped(reason=reason) for reason in self.loader.drain_skipped())
        yield from (Warned(message=message) for message in self.features.drain_warnings())

    def first_cuts(self) -> Iterator[Warned]:
        """Say of the rows that were read before the first step which were cut; they are counted when it is done."""
        if self.loader.first_cuts:
            found = CutCounts().add(self.loader.first_cuts).describe()
            yield Warned(message=f"of those read so far {found}; data.on_long_row says what happens to such rows")

    def count(self, step: int, report: StepReport | None) -> Iterator[Event]:
        """Count a step as done, and yield what it was; None for one that was passed over."""
        self.done = step
        for ended in self.source.ended(step):
            name = self.sources.end_epoch(ended)
            yield EpochEnded(step=step, epoch=ended.epoch, n_rows=ended.n_rows, source=name)
        if report is None:
            yield from self._pass_over(step)
            return
        self.metrics.add(report)
        self.learned.add(report.rows)
        if self.ranks.size > 1:
            self._untold.append(report)
        else:
            self.sources.add(report.rows)
        yield attrs.evolve(report, n_steps=self.n_steps)
        yield from self._count_cuts(report.cuts)

    def _pass_over(self, step: int) -> Iterator[Warned]:
        """Count a step that has no row; the first is told: in a later epoch its rows are no longer named one by one."""
        self.metrics.pass_over(step)
        self.n_passed += 1
        if self.n_passed == 1:
            yield Warned(
                message=f"step {step} was passed over, since none of its rows can be learned from; metrics.jsonl "
                "counts such steps"
            )

    def shares_features(self, step: int) -> bool:
        """Whether devices are to take one another's features behind a step: once, when all rows have been read.

        Rows that come to another device later need no tower there. In the first epoch they would have other bits than
        in a run that goes on from one of its steps, which finds features of later ones.
        """
        return not self.has_all_features and self.features.is_divided and self.source.n_epochs(step) > 0

    def share_features(self) -> None:
        """Let every device take the features that the others have computed, for the last time."""
        self.exchange_features()
        self.has_all_features = True

    def exchange_features(self) -> None:
        """Let every device take the features that the others have computed until now, which need not be all."""
        self.flush_features()
        self.features.take_others()

    def flush_features(self) -> None:
        """Write the features that this device has computed to disk, and wait until each has done so.

        A run that goes on from a state that is saved then finds those that this run has found, to the last bit.
        """
        self.features.flush()
        self.ranks.wait()

    def first_examples(self, n: int) -> Iterator[tuple[Example, ...]]:
        """Make examples of the first rows of those that this device learns from, and whose features it keeps.

        With divided weights they are the first rows of all: each device has to run as many batches as the others.

        Args:
            n: How many rows are read at most.

        Raises:
            SampleError: A row cannot be learned from, and such rows are not skipped.
        """
        first, every = (0, 1) if self.backbone.shards else (self.ranks.rank, self.ranks.size)

        def skip(_: int, error: SampleError) -> None:
            raise_unless_skipped(error, self.recipe.data)

        return first_examples(self.data.train, n, self.loader.encode, skip, first=first, every=every)

    def share_rows(self) -> Iterator[Warned]:
        """Let every rank know what the others have learned, cut and skipped since this was last called.

        At the end of a run this comes behind the answers too, which take kept features.
        """
        if self.ranks.size == 1:
            return
        own = [mark for report in self._untold for mark in report.rows]
        self.sources.add(own)
        marks = [attrs.astuple(mark) for mark in own]
        cuts = [attrs.asdict(cut) for report in self._untold for cut in report.cuts]
        skipped = self.loader.skipped[self._n_told :]
        self._untold.clear()
        counts = self.features.counts
        told = self.ranks.gather((marks, cuts, skipped, None if counts is None else attrs.asdict(counts)))
        self.devices.tell((len(marks), None if found is None else FeatureCounts(**found)) for marks, *_, found in told)
        for rank, (other_marks, other_cuts, other_skipped, _) in enumerate(told):
            if rank == self.ranks.rank:
                continue
            others = [parse_mark(*mark) for mark in other_marks]
            self.learned.add(others)
            self.sources.add(others)
            found = [Cut(**cut) for cut in other_cuts]
            self.metrics.interval.add_cuts(found)
            yield from self._count_cuts(found)
            self.loader.skipped.extend(other_skipped)
        self._n_told = len(self.loader.skipped)

    def _count_cuts(self, cuts: Sequence[Cut]) -> Iterator[Warned]:
        """Count the rows of a step that were cut; the first ones of a run are told where they are met."""
        is_told = self.cuts.n_rows > 0 or bool(self.loader.first_cuts)
        self.cuts = self.cuts.add(cuts)
        if cuts and not is_told:
            yield Warned(message=f"{self.cuts.describe()}; metrics.jsonl counts those that follow")

    def write_interval(self, *, is_shared: bool = True, is_provisional: bool = False) -> Reported:
        """Write the metrics of the steps since the last line.

        Args:
            is_shared: Whether all ranks know what the others have done: what was learned of each source, and on each
                device, is written then.
            is_provisional: As of `MetricsLog.write_interval`.
        """
        shares: dict[str, float] | None = None
        if is_shared or self.ranks.size == 1:
            shares = {**self.sources.measure(), **self.devices.measure()}
        return self.metrics.write_interval(self.features.counts, shares, is_provisional=is_provisional)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Bind the newest state's parameters to the model while the `with` lasts."""
        bind(self.backbone, self.loop.state)
        try:
            yield
        finally:
            unbind(self.backbone)
