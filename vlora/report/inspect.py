"""Shows rows as the model will see them, as text. Nothing is trained, no weights are loaded."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np

from .. import models
from ..build import Data
from ..errors import SampleError
from ..facts import Columns
from ..types import BoolArray, Cut, Example
from .rows.choice import Chosen


@attrs.frozen(kw_only=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        text: The tokens decoded; for image placeholders their number.
        kind: "supervised", "context" or "image".
        role: Their role, as in `Encoder.find_roles`; empty if roles were not requested.
        is_special: Whether they are special tokens.
    """

    text: str
    kind: str
    role: str = ""
    is_special: bool = False


@attrs.frozen(kw_only=True)
class Inspected:
    """One row as the model will see it.

    Attributes:
        source: Its name in error messages.
        pieces: Its tokens in order; empty for a bad row.
        n_text: Text tokens.
        n_image: Image placeholders.
        n_supervised: Tokens that are learned.
        image_sizes: (width, height) in pixels as the processor gets them.
        problem: Why the row cannot be learned from; None if it can.
        cut: The part that `data.max_seq_length` cut off; None if the row is whole.
        rejected: The tokens of a worse answer to the same question; empty without one.
        is_wanted: Whether the row says that its answer is wanted; None if it does not say.
        columns: Which columns of the rows up to this one are used, and which are not.
    """

    source: str
    pieces: tuple[Piece, ...] = ()
    n_text: int = 0
    n_image: int = 0
    n_supervised: int = 0
    image_sizes: tuple[tuple[int, int], ...] = ()
    problem: str | None = None
    cut: Cut | None = None
    rejected: tuple[Piece, ...] = ()
    is_wanted: bool | None = None
    columns: Columns = attrs.field(factory=Columns)


def inspect_rows(data: Data, chosen: Sequence[Chosen]) -> Iterator[Inspected]:
    """Encode rows and describe them.

    Args:
        data: As `load_data` gives it.
        chosen: Rows of its data sets.
    """

    def decode(ids: list[int]) -> str:
        return str(data.encoder.tokenizer.decode(ids))

    for row in chosen:
        try:
            sample = row.rows[row.index]
            with row.rows.locating(row.index):
                example, *others = models.encode_answers(data.encoder, sample)
            found = describe(example, decode)
            found = attrs.evolve(found, is_wanted=sample.is_wanted, rejected=divide_answer(others, decode))
        except SampleError as error:
            found = Inspected(source=row.source, problem=str(error))
        yield attrs.evolve(found, columns=row.rows.columns())


def describe(example: Example, decode: Callable[[list[int]], str]) -> Inspected:
    """Split an example into runs of supervised, context and image tokens. Pure.

    Args:
        example: The row.
        decode: Token ids to text.
    """
    n_image = int(example.placeholders.sum())
    return Inspected(
        source=example.source,
        pieces=divide(example, decode),
        n_text=len(example.tokens) - n_image,
        n_image=n_image,
        n_supervised=int(example.supervised.sum()),
        image_sizes=example.image_sizes,
        cut=example.cut,
    )


def divide_answer(examples: Sequence[Example], decode: Callable[[list[int]], str]) -> tuple[Piece, ...]:
    """Divide the answers of examples into runs of tokens; what stands before them is left out. Pure."""
    return tuple(piece for example in examples for piece in divide(from_answer(example), decode))


def from_answer(example: Example) -> Example:
    """Give an example from its first token on that is learned. Pure."""
    start = int(np.flatnonzero(example.supervised)[0])
    parts = (example.tokens[start:], example.supervised[start:], example.placeholders[start:])
    return Example(example.source, *parts)


def divide(
    example: Example,
    decode: Callable[[list[int]], str],
    roles: Sequence[str] | None = None,
    special: BoolArray | None = None,
) -> tuple[Piece, ...]:
    """Split an example's tokens into runs of one kind. Pure.

    Args:
        example: The row.
        decode: Token ids to text.
        roles: Role of each token; None to ignore roles.
        special: bool[T], marks special tokens; None to ignore them.
    """
    kinds = np.where(example.placeholders, "image", np.where(example.supervised, "supervised", "context"))
    owners = np.asarray([""] * len(kinds) if roles is None else roles)
    marks = np.zeros(len(kinds), np.bool_) if special is None else special
    changes = (kinds[1:] != kinds[:-1]) | (owners[1:] != owners[:-1]) | (marks[1:] != marks[:-1])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(kinds)]
    pieces = []
    for start, end in itertools.pairwise(edges):
        kind, role = str(kinds[start]), str(owners[start])
        is_image = kind == "image"
        text = f"{end - start} image tokens" if is_image else decode(example.tokens[start:end].tolist())
        pieces.append(Piece(text=text, kind=kind, role=role, is_special=bool(marks[start]) and not is_image))
    return tuple(pieces)
