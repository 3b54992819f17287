"""Rows of a plan where answers are compared: as many examples as in a run, with the columns that it reads."""

from collections.abc import Sequence

import attrs

from .. import models
from ..data.loader import flatten
from ..data.pairing import needs_mismatched
from ..recipe.preference import LOSSES, UNPAIRED
from ..recipe.schema import Recipe
from ..train.objectives.preference import MISMATCHED, PREFERRED, split_reference
from ..types import Example


def join_rows(recipe: Recipe, rows: Sequence[tuple[Example, ...]]) -> list[Example]:
    """Make the examples of a microbatch of those of its rows, as a run does.

    Args:
        recipe: The recipe.
        rows: Examples of each row.
    """
    grouped = [
        row if len(row) == 1 else tuple(attrs.evolve(example, group=number) for example in row)
        for number, row in enumerate(rows)
    ]
    examples = models.add_mismatched(grouped) if needs_mismatched(recipe) else flatten(grouped)
    if not recipe.preference.precompute:
        return examples
    return [attrs.evolve(example, columns={**example.columns, **split_reference(0.0)}) for example in examples]


def compare_blanks(recipe: Recipe, blank: Example) -> tuple[Example, ...]:
    """Make a row of examples that are alike: two where two answers are compared."""
    objective = recipe.train.objective
    if objective not in LOSSES:
        return (blank,)
    sides = (1.0,) if objective in UNPAIRED else (1.0, 0.0)
    more = {MISMATCHED: 0.0} if needs_mismatched(recipe) else {}
    return tuple(attrs.evolve(blank, columns={PREFERRED: side, **more}) for side in sides)
