"""What the model will see of a recipe's rows, as text to look at. Nothing is trained, no weights are loaded."""

import itertools
from collections.abc import Callable, Iterator

import attrs
import numpy as np

from ..build import load_data
from ..data.examples import first_examples
from ..errors import SampleError
from ..events import Columns, TemplateUse
from ..recipe.schema import Recipe
from ..types import Cut, Example, Sample


@attrs.frozen(kw_only=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        text: The tokens decoded; for image placeholders their number.
        kind: "supervised", "context" or "image".
    """

    text: str
    kind: str


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
        cut: What `data.max_seq_length` has left out; None if the row is whole.
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
    columns: Columns = attrs.field(factory=Columns)


def inspect_rows(
    recipe: Recipe, n_rows: int, tell: Callable[[TemplateUse], None] = lambda _: None
) -> Iterator[Inspected]:
    """Encode the first rows and describe them.

    Args:
        recipe: The recipe.
        n_rows: How many rows.
        tell: Is told what writes the conversations, before the first row.

    Raises:
        VloraError: The recipe names something that is not there.
    """
    data = load_data(recipe)
    tell(data.encoder.template_use())

    def look_at(sample: Sample) -> Inspected:
        return describe(data.encoder(sample), lambda ids: str(data.encoder.tokenizer.decode(ids)))

    def refuse(index: int, error: SampleError) -> Inspected:
        return Inspected(source=f"{data.train.name} row {data.train.indices[index]}", problem=str(error))

    for row in first_examples(data.train, n_rows, look_at, refuse):
        yield attrs.evolve(row, columns=data.train.columns())


def describe(example: Example, decode: Callable[[list[int]], str]) -> Inspected:
    """Divide an example into runs of supervised, context and image tokens. Pure.

    Args:
        example: The row.
        decode: Token ids to text.
    """
    kinds = np.where(example.placeholders, 2, example.supervised.astype(np.int8))
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    pieces = []
    for start, end in itertools.pairwise(edges):
        if kinds[start] == 2:  # noqa: PLR2004 - the number given to placeholders above
            pieces.append(Piece(text=f"{end - start} image tokens", kind="image"))
        else:
            kind = "supervised" if kinds[start] else "context"
            pieces.append(Piece(text=decode(example.tokens[start:end].tolist()), kind=kind))
    n_image = int(example.placeholders.sum())
    return Inspected(
        source=example.source,
        pieces=tuple(pieces),
        n_text=len(example.tokens) - n_image,
        n_image=n_image,
        n_supervised=int(example.supervised.sum()),
        image_sizes=example.image_sizes,
        cut=example.cut,
    )
