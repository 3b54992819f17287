"""What a run reports while it goes on. Plain numbers with their units in the names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .cuts import CutCounts
from .facts import Columns, DeviceUse, FeatureStorage, HeadUse, SourceShare, SourceUse, TemplateUse
from .facts import Device as Device  # noqa: PLC0414 - a fact that events tell
from .measured import StepReport as StepReport  # noqa: PLC0414 - one event among the others
from .scores import Scored as Scored  # noqa: PLC0414 - one event among the others

if TYPE_CHECKING:
    from .types import HeldOut


@attrs.frozen(kw_only=True)
class FeatureCounts:
    """Where the features of images came from.

    Attributes:
        n_memory: Images found in memory.
        n_disk: Images found on disk.
        n_computed: Images that the tower ran for.
        memory_bytes: Held in memory.
        disk_bytes: Held on disk for this model.
    """

    n_memory: int = 0
    n_disk: int = 0
    n_computed: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    def since(self, before: "FeatureCounts") -> dict[str, float]:
        """Count the images since an earlier time, as metrics.jsonl has them."""
        return {
            "features_from_memory": self.n_memory - before.n_memory,
            "features_from_disk": self.n_disk - before.n_disk,
            "features_computed": self.n_computed - before.n_computed,
            "features_memory_gb": self.memory_bytes / 1e9,
            "features_disk_gb": self.disk_bytes / 1e9,
        }


@attrs.frozen(kw_only=True)
class Working:
    """What a run does next, until another event shows it: before its first step, and between steps.

    Attributes:
        what: As it is shown: "loading the model".
        total: How many of it, where they are counted one by one by the events that follow.
    """

    what: str
    total: int | None = None


@attrs.frozen(kw_only=True)
class Compiling:
    """Workers compile kernels that the run is going to need.

    Attributes:
        n_kernels: Kernels that were not there.
        n_workers: Processes that compile them side by side.
    """

    n_kernels: int
    n_workers: int


@attrs.frozen(kw_only=True)
class Compiled:
    """Kernels have been compiled; the rest is, if there is any, when it is needed.

    Attributes:
        n_kernels: Those that are there now and were not before.
        seconds: From the beginning of that.
        folder: Where they are kept.
    """

    n_kernels: int
    seconds: float
    folder: Path


@attrs.frozen(kw_only=True)
class Started:
    """The run is about to take its first step.

    Attributes:
        device: What it computes on.
        model_type: mlx-vlm's name of the architecture.
        n_rows: Rows to train on; None where they are streamed.
        n_valid_rows: Rows to validate on.
        n_steps: Steps of the whole run.
        is_estimated: Whether that number is an estimate, which gets better as the run goes on (packed epochs).
        first_step: Steps done before, by the run that this one goes on from.
        n_params: Parameters of the model.
        n_trainable: Those that are trained.
        adapted: Names of layers with an adapter, those that differ in their numbers only as one, with their count.
        columns: Which columns of the rows that were read so far are used, and which are not.
        features: Where the features of images are kept, or why they are not.
        template: What writes the conversations, and how answers end.
        head: How the language model's head runs.
        held_out: The rows to validate on, each read when it is asked for.
        n_files: Files that rows are streamed from; 0 where they are not.
        n_devices: Devices among which the rows are shared out, each with a process of its own.
        sources: How several sources are mixed; empty without them.
    """

    device: Device
    model_type: str
    n_rows: int | None
    n_valid_rows: int
    n_steps: int
    is_estimated: bool
    first_step: int
    n_params: int
    n_trainable: int
    adapted: tuple[str, ...]
    columns: Columns
    features: FeatureStorage
    template: TemplateUse
    head: HeadUse
    held_out: "HeldOut" = attrs.field(default=(), repr=False, eq=False)
    n_files: int = 0
    n_devices: int = 1
    sources: tuple[SourceShare, ...] = ()


@attrs.frozen(kw_only=True)
class Reported:
    """A line of metrics.jsonl was written."""

    metrics: Mapping[str, float | str]


@attrs.frozen(kw_only=True)
class EpochEnded:
    """All rows of a stream were given to steps once more.

    Attributes:
        step: The step with the last of them.
        epoch: Epochs that are over.
        n_rows: Rows of this one, on all devices together.
        source: The name of the stream where several are mixed; empty of a single one.
    """

    step: int
    epoch: int
    n_rows: int
    source: str = ""


@attrs.frozen(kw_only=True)
class Skipped:
    """A row was passed over (data.on_bad_row or data.on_long_row = "skip")."""

    reason: str


@attrs.frozen(kw_only=True)
class Warned:
    """Something went otherwise than meant, and the run goes on all the same."""

    message: str


@attrs.frozen(kw_only=True)
class Generated:
    """An answer was generated.

    Attributes:
        when: "before", "during" or "after" training.
        done: Answers so far.
        total: Answers to come to, as far as it is known: rows that cannot be read are none.
        accuracy: Share of exact answers so far.
        expected: The row's answer.
        found: The model's.
        row: The row's name: its file and its place there.
    """

    when: str
    done: int
    total: int
    accuracy: float
    expected: str
    found: str
    row: str = ""


@attrs.frozen(kw_only=True)
class Best:
    """The best state of a run so far.

    Attributes:
        judged_by: The value of metrics.jsonl that it is the best by.
        step: The step behind which it was.
        value: Its value.
        untrained: The untrained model's, where that is at least as good.
        path: The folder in which it is kept; None where the recipe keeps none.
    """

    judged_by: str
    step: int
    value: float
    untrained: float | None = None
    path: Path | None = None


@attrs.frozen(kw_only=True)
class Saved:
    """A checkpoint was written.

    Attributes:
        path: Its file or folder.
        step: The step behind which it is.
        best: What it is the best by, if it is the best one so far.
    """

    path: Path
    step: int
    best: Best | None = None


@attrs.frozen(kw_only=True)
class StoppedEarly:
    """The run is over before its last step: too often in a row no state was better than an earlier one.

    Attributes:
        step: The last step.
        n_steps: Steps that were to be done.
        n_stale: How often in a row none was better.
        judged_by: The value of metrics.jsonl that judges them.
        reference: What none was better than; None if no value was finite.
        min_delta: By how much a state has to be better (train.early_stopping_min_delta).
    """

    step: int
    n_steps: int
    n_stale: int
    judged_by: str
    reference: float | None
    min_delta: float


@attrs.frozen(kw_only=True)
class Untrained:
    """What the loss is before the model has learned anything.

    Attributes:
        loss: In nats per supervised token.
        is_held_out: Whether it is that of the rows to validate on, and not that of the first step's.
        n_tokens: Tokens that the model may write.
        guessing: The loss of guessing evenly among them.
        is_guessing: Whether the loss is not clearly below that.
        is_random: Whether the model is the built-in one, whose weights are random.
    """

    loss: float
    is_held_out: bool
    n_tokens: int
    guessing: float
    is_guessing: bool
    is_random: bool


@attrs.frozen(kw_only=True)
class Finished:
    """The run is over.

    Attributes:
        step: Steps done.
        n_steps: Steps that were to be done.
        model: What holds the base, or the whole fine-tuned model.
        revision: The version of the base, where it is the hub's.
        adapter: The adapter; None after full fine-tuning.
        metrics: The run's metrics.jsonl.
        example_image: An image on disk to ask about; None without one.
        example_question: What to ask.
        max_new_tokens: How long an answer may be.
        n_skipped: Rows passed over.
        n_passed: Steps passed over, since none of their rows can be learned from.
        n_traces: Shapes traced.
        trace_s: Seconds spent in steps that traced a new shape.
        config_differs_upstream: Whether mlx-vlm itself would read the base's configuration wrongly, or not at all.
        difference: In what mlx-vlm's generation differs from what was trained; None where it does not.
        unasked: Why mlx-vlm cannot be asked; None as far as it is known to be able to answer.
        features: Where features of images came from; None if none were kept.
        cuts: Rows that were cut by data.max_seq_length, in all epochs together, those before a resume included.
        stopped_early: Whether the run is over before its last step.
        best: The best state, where states were judged.
        left_off: What a run that was asked to end has left off behind its last step: "validation", "answers after
            training", or both. Going on does it.
        sources: What was learned of each of several sources, in all steps; empty without them.
        devices: What each of several devices has done, by its rank; empty for one.
    """

    step: int
    n_steps: int
    model: str
    adapter: Path | None
    revision: str | None = None
    metrics: Path
    example_image: Path | None
    example_question: str
    max_new_tokens: int
    n_skipped: int
    n_traces: int
    trace_s: float
    config_differs_upstream: bool = False
    difference: str | None = None
    unasked: str | None = None
    features: FeatureCounts | None = None
    cuts: CutCounts = attrs.field(factory=CutCounts)
    stopped_early: bool = False
    best: Best | None = None
    left_off: tuple[str, ...] = ()
    sources: tuple[SourceUse, ...] = ()
    devices: tuple[DeviceUse, ...] = ()
    n_passed: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no step is left to be done."""
        return self.stopped_early or self.step == self.n_steps

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be done: no step, and nothing behind the last one."""
        return self.is_over and not self.left_off


OfRun = Compiling | Compiled | Started | Untrained | StepReport | EpochEnded | Reported | StoppedEarly | Finished
Event = OfRun | Working | Skipped | Warned | Generated | Scored | Saved
