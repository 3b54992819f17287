"""From a recipe and what a training state says to the cursors of its streams, at the rows where a run begins."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..recipe.schema import Recipe
from .drawn_rows import DrawnRows
from .mixture import own_seed
from .readers.stream import RowStream
from .stream_cursor import StreamCursor, StreamProgress, check_names
from .turns import EvenTurns, Turns, TurnTaking


def find_keys(drawn: DrawnRows) -> list[str]:
    """Give the sections of a recipe that name the streams, for errors."""
    return _name_keys(len(drawn.streams), is_mixture=drawn.is_mixture)


def _name_keys(n_streams: int, *, is_mixture: bool) -> list[str]:
    return [f"data.sources[{place}]" for place in range(n_streams)] if is_mixture else ["data"]


def check_files(position: str, streams: Sequence[RowStream], *, is_mixture: bool) -> None:
    """Check that streams have the files that they had, before it is asked what of them has changed.

    Args:
        position: What the training state remembers (`BatchSource.position`). What is not understood is left to what
            goes on from it.
        streams: The streams as they are now.
        is_mixture: Whether they are sources of a mixture.

    Raises:
        CheckpointError: They have others.
    """
    each: list[Any] = []
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(position)
        each = found.get("sources", [found])
    for one, stream, key in zip(each, streams, _name_keys(len(streams), is_mixture=is_mixture), strict=False):
        if isinstance(one, dict) and "files" in one:
            check_names(one, stream, key)


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
            seed=own_seed(seed, place) if drawn.is_mixture else seed,
            shuffle=data.shuffle,
            buffer_size=data.shuffle_buffer,
            key=key,
            start=start,
        )
        for place, (stream, key, start) in enumerate(zip(drawn.streams, find_keys(drawn), starts, strict=True))
    ]


def make_turns(recipe: Recipe, drawn: DrawnRows) -> TurnTaking | None:
    """Make what says from which stream each row comes; None of a single one."""
    if not drawn.is_mixture:
        return None
    seed, shuffle = recipe.train.seed, recipe.data.shuffle
    if drawn.weights is None:
        return EvenTurns(seed=seed, shuffle=shuffle)
    return Turns(weights=drawn.weights, seed=seed, shuffle=shuffle)


def parse_progress(
    found: Sequence[Mapping[str, Any]], drawn: DrawnRows, *, allows_changes: bool
) -> list[StreamProgress]:
    """Read what `StreamProgress.dump` gave of each stream; errors as for `StreamProgress.parse`."""
    return [
        StreamProgress.parse(one, stream, key=key, allows_changes=allows_changes)
        for one, stream, key in zip(found, drawn.streams, find_keys(drawn), strict=True)
    ]
