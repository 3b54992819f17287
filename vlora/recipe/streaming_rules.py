"""Keys of a recipe that a stream of rows needs, or cannot have. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from .schema import DataSection, Recipe


def find_missing(recipe: Recipe, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence where a stream has no end.

    Args:
        recipe: The recipe.
        raw: What it was made of: only there the keys that it names show.
    """
    train = raw.get("train")
    named = train.keys() if isinstance(train, Mapping) else ()
    if recipe.data.streaming and recipe.train.epochs is None and "iters" not in named:
        yield "train.iters: found none together with data.streaming = true; a stream has no known length, set it"


def find_streaming_contradictions(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for every key that a stream of rows cannot have."""
    data, train = recipe.data, recipe.train
    has_buffer = data.shuffle_buffer != DataSection().shuffle_buffer
    if not data.streaming:
        if has_buffer:
            yield (
                f"data.shuffle_buffer: found {data.shuffle_buffer} without data.streaming = true, which it is a part "
                "of; set both"
            )
        return
    if has_buffer and not data.shuffle:
        yield (
            f"data.shuffle_buffer: found {data.shuffle_buffer} together with data.shuffle = false, which reads the "
            "rows in their order; leave one of the two out"
        )
    together = "together with data.streaming = true"
    if train.epochs is not None:
        yield f"train.epochs: found {train.epochs} {together}; a stream's rows are not counted, give train.iters"
    if data.valid_fraction:
        yield (
            f"data.valid_fraction: found {data.valid_fraction:g} {together}; a stream's rows are not counted, hold the "
            'first ones out with data.split = "train[100:]" and data.valid_split = "train[:100]"'
        )
    if recipe.preference.precompute:
        yield f"preference.precompute: found true {together}; a stream is not read through before the first step"
