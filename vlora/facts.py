"""What a run says of itself before its first step, as `Started` has it; `vlora.cli` makes sentences of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class UnnamedImages:
    """Images of a folder that no row of its metadata names.

    Attributes:
        n_images: Images in the folder.
        n_rows: Rows of its metadata.
        n_unnamed: Images that no row names; None where there are too many rows to read them before the first step.
        first: One of those images; empty where they were not looked for.
    """

    n_images: int
    n_rows: int
    n_unnamed: int | None
    first: str = ""


@attrs.frozen(kw_only=True)
class Columns:
    """What became of the columns of the rows that were read so far.

    Attributes:
        used: Columns that are read, and what as.
        unused: Columns that are not, in alphabetical order.
        missing: Columns that data.columns names and no row has so far.
        unnamed: Images of a folder that no row names; None if there are none.
    """

    used: Mapping[str, str] = attrs.field(factory=dict)
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unnamed: UnnamedImages | None = None


@attrs.frozen(kw_only=True)
class SourceShare:
    """One of several sources of rows, and its part in what is learned. Rows are counted, not tokens.

    Attributes:
        name: How messages name its rows.
        n_rows: Its rows; None of a stream.
        wanted: Its share of the rows of an epoch of the mixture, as its weight has it; without weights that of its
            rows, None of streams, whose rows are not counted.
        real: The share that it has of them.
        n_drawn: Rows of it in such an epoch; None of a stream.
    """

    name: str
    wanted: float | None
    real: float | None
    n_rows: int | None = None
    n_drawn: int | None = None


@attrs.frozen(kw_only=True)
class SourceUse:
    """What was learned of a source.

    Attributes:
        name: How messages name its rows.
        n_rows: Rows that were learned, each as often as it was.
        epochs: How often that is all of its rows; None of a stream that has not been read through yet.
        n_tokens: Their tokens.
    """

    name: str
    n_rows: int
    epochs: float | None
    n_tokens: int


@attrs.frozen(kw_only=True)
class DeviceUse:
    """What a device of several has done since the run began, or went on.

    Attributes:
        n_rows: Rows that it has learned, each as often as it was.
        n_computed: Images that a tower ran for there; None if no features are kept.
    """

    n_rows: int
    n_computed: int | None = None


@attrs.frozen(kw_only=True)
class TemplateUse:
    """What writes the conversations, and how their answers end.

    Attributes:
        origin: Whose the chat template is: the model's, vlora's for its family, the recipe's, or "none" of a model that
            reads one task and writes one answer.
        given: What data.chat_template names; empty without it.
        replaces_own: Whether the model has a template of its own, which the recipe's replaces.
        ending: What answers are learned to end with; empty if they end as the template writes them.
        adds_ending: Whether data.learn_end has added that, and not the template.
        ignores_assistant_id: Whether the recipe has data.assistant_id, and nothing needs it.
    """

    origin: Literal["model", "vlora", "recipe", "none"]
    given: str = ""
    replaces_own: bool = False
    ending: str = ""
    adds_ending: bool = False
    ignores_assistant_id: bool = False


@attrs.frozen(kw_only=True)
class FeatureStorage:
    """Where the features of images are kept.

    Attributes:
        reason: Why they are not kept; None if they are.
        memory_gb: How much memory they may take.
        disk_gb: How much of a disk they may take.
        folder: Where on the disk; None without one.
        resumes_rounded: Whether a run that goes on ends in other last bits than one that was not stopped.
    """

    reason: str | None = None
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    folder: Path | None = None
    resumes_rounded: bool = False


@attrs.frozen(kw_only=True)
class HeadUse:
    """How the language model's head runs.

    Attributes:
        extent: "chunks" of a batch's supervised tokens; all "supervised" tokens of a batch at once, since what the head
            takes is not what one module of layers gives; or "all" tokens, since no module gives the model's own logits
            at given ones.
        module: The head's qualified name; empty where none was found.
    """

    extent: Literal["chunks", "supervised", "all"]
    module: str = ""


@attrs.frozen(kw_only=True)
class Device:
    """What a run computes on.

    Attributes:
        kind: "cpu", "metal" or "cuda".
        name: The chip's or the card's.
        memory_bytes: There for arrays.
    """

    kind: str
    name: str
    memory_bytes: int
