"""What vlora raises. Every message says where, what was found, and what to do."""

from collections.abc import Iterable, Mapping
from typing import Any

from .system.pickling import reduce_error
from .system.redaction import redact

NAMED_ROWS = 4
"""Of a batch that there was no memory for."""


class VloraError(ValueError):
    """Anything the user can mend; the command line prints it without a traceback.

    Attributes:
        message: What is wrong, without secrets and not at any length.
        key: What it is about, with which the sentence begins: a recipe's key, which a command may call otherwise.
    """

    def __init__(self, message: str = "", *, key: str | None = None) -> None:
        """Take a sentence that has the key within it, or behind it."""
        self.message, self.key = redact(message), key
        super().__init__(self.message)

    def __str__(self) -> str:
        """Write the sentence."""
        return self.message if self.key is None else f"{self.key}: {self.message}"

    def __repr__(self) -> str:
        """Write the class with all that the error knows; of a batch its description."""
        known = {name: value for name, value in vars(self).items() if value is not None and name != "message"}
        if known.get("batch") is not None:
            known["batch"] = describe_batch(known["batch"])
        parts = [repr(self.message), *(f"{name}={value!r}" for name, value in known.items())]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again by what it knows."""
        return reduce_error(self)

    def rename(self, arguments: Mapping[str, str]) -> None:
        """Begin with a command's argument instead of a recipe's key.

        Args:
            arguments: The command's arguments by the keys in whose place they stand. A source of a mixture that is
                named before such a key stays in the message.
        """
        if self.key is None:
            return
        before, _, rest = self.message.partition(": ")
        if self.key not in arguments and before in arguments:
            self.key, self.message = before, f"{self.key}: {rest}"
        self.key = arguments.get(self.key, self.key)


class RecipeError(VloraError):
    """A recipe, or an option on the command line, that cannot be carried out."""


class SplitError(RecipeError):
    """A split that a data set does not have.

    Attributes:
        splits: Those that it has.
    """

    def __init__(self, message: str, splits: Iterable[str], *, key: str | None = None) -> None:
        """Say which one was asked for, and keep those that there are."""
        super().__init__(message, key=key)
        self.splits = tuple(map(str, splits))


class SampleError(VloraError):
    """A dataset row that cannot be learned from; the message begins with its row number."""


class LongRowError(SampleError):
    """A row that is not cut to `data.max_seq_length`: by data.on_long_row, or since its question alone fills it."""


class UnwantedAnswerError(SampleError):
    """A row whose answer is marked as unwanted, so that it does not say what would be a right one."""


class BatchError(VloraError):
    """Rows that cannot be put into one batch."""


class ModelError(VloraError):
    """A model that cannot be loaded, or that cannot be trained correctly."""


class CheckpointError(VloraError):
    """An adapter or a training state that does not belong to the model."""


class RanksError(VloraError):
    """Processes that cannot carry out one run together."""


class CheckError(VloraError):
    """A check of `vlora.doctor` found something other than it should be."""


class EvaluationError(VloraError):
    """Answers that cannot be read, or a metric of your own that cannot compare them with what was expected."""


class AnswerError(VloraError):
    """A model, or mlx-vlm for the user, cannot answer a question; it says why."""


class HubError(VloraError):
    """The Hugging Face hub does not take what is pushed; it says why."""


class NonFiniteError(VloraError):
    """A loss or a gradient became NaN or infinite; nothing of that step was kept."""


class PreferenceError(VloraError):
    """What answers are compared with is not the model that training starts from."""


class UnboundError(VloraError):
    """A model that is asked, or begun with, while a state alone holds what was trained of it."""


class OutOfMemoryError(VloraError):
    """There is no memory for what was to be computed, or MLX has no such large arrays. What was saved before is whole.

    Attributes:
        where: What was to be computed ("step 12").
        found: What MLX, or who else had to have memory, said.
        batch: The `Batch` that was to be computed on; None if it was none's fault.
        is_host: It is the host's memory that there was not enough of.
        remedy: What would need less, besides all that a plan can find.
        dimension: Entries of one dimension of an array, more than MLX can count; 0 if it was memory that lacked.
    """

    def __init__(
        self,
        where: str,
        found: str,
        batch: Any = None,
        *,
        is_host: bool = False,
        remedy: str = "",
        dimension: int = 0,
        message: str | None = None,
    ) -> None:
        """Say what there is to say without a plan, unless there is a message that says more."""
        what = "" if batch is None else f" with {describe_batch(batch)}"
        lower = remedy or (
            "lower data.workers, data.prefetch or features.memory_gb"
            if is_host
            else "lower train.batch_size, data.max_seq_length or data.max_pixels, or set train.grad_checkpoint = true"
        )
        self.where, self.found, self.batch, self.is_host, self.remedy = where, found, batch, is_host, remedy
        self.dimension = dimension
        super().__init__(message or f"{where}: {self.problem}{what} ({found}); {lower}")

    @property
    def problem(self) -> str:
        """Say what was lacking."""
        return "too large for MLX's arrays" if self.dimension else f"out of {'host ' * self.is_host}memory"


def describe_batch(batch: Any) -> str:
    """Say how large a `Batch` is and which rows are in it."""
    n_rows, n_tokens = batch.tokens.shape
    sources = [row.source for row in batch.rows]
    more = f" and {len(sources) - NAMED_ROWS} more" if len(sources) > NAMED_ROWS else ""
    return f"{n_rows} rows of {n_tokens:,} tokens ({', '.join(sources[:NAMED_ROWS])}{more})"
