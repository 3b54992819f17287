"""From a recipe and what a training state says to the cursors of its streams, at the rows where a run begins."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..recipe.schema import Recipe
from .drawn_rows import DrawnRows
from .mixture import own_seed
from .stream_cursor import StreamCursor, StreamProgress
from .turns import Turns


def find_keys(drawn: DrawnRows) -> list[str]:
    """Give the sections of a recipe that name the streams, for errors."""
    n_sources = None if drawn.weights is None else len(drawn.weights)
    return ["data"] if n_sources is None else [f"data.sources[{place}]" for place in range(n_sources)]


def make_cursors(recipe: Recipe, drawn: DrawnRows, starts: Sequence[StreamProgress]) -> list[StreamCursor]:
    """Make what draws the rows of each stream.

    Args:
        recipe: The recipe.
        drawn: Has the streams.
        starts: How far each of them was read before.
    """
    seed, data = recipe.train.seed, recipe.data
    return [
        StreamCursor(
            stream=stream,
            seed=seed if drawn.weights is None else own_seed(seed, place),
            shuffle=data.shuffle,
            buffer_size=data.shuffle_buffer,
            key=key,
            start=start,
        )
        for place, (stream, key, start) in enumerate(zip(drawn.streams, find_keys(drawn), starts, strict=True))
    ]


def make_turns(recipe: Recipe, drawn: DrawnRows) -> Turns | None:
    """Make what says from which stream each row comes; None of a single one."""
    if drawn.weights is None:
        return None
    return Turns(weights=drawn.weights, seed=recipe.train.seed, shuffle=recipe.data.shuffle)


def parse_progress(
    found: Sequence[Mapping[str, Any]], drawn: DrawnRows, *, allows_changes: bool
) -> list[StreamProgress]:
    """Read what `StreamProgress.dump` gave of each stream; errors as for `StreamProgress.parse`."""
    return [
        StreamProgress.parse(one, stream, key=key, allows_changes=allows_changes)
        for one, stream, key in zip(found, drawn.streams, find_keys(drawn), strict=True)
    ]
