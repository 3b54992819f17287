"""`[[data.sources]]`: several sets of rows that are learned together. Pure."""

from collections.abc import Iterator, Mapping, Sequence

import attrs

from . import checks
from .columns import find_mistakes, placeholders
from .converter import Names, key


@attrs.frozen(kw_only=True)
class SourceSection:
    """One of several sets of rows. What it does not say of its rows is as [data] has it.

    Attributes:
        path: As data.path.
        weight: Its share of the rows that are learned, relative to the other sources' weights. Rows are counted, not
            tokens. Without weights each row of every source is learned once per epoch. Streams, whose rows are not
            counted, then take turns, a row each, until every one has ended.
        rows: How many of its rows are used at most, the first ones.
        revision: As data.revision.
        split: As data.split.
        config: As data.config.
        columns: As data.columns.
        custom_prompt_format: As data.custom_prompt_format.
        image_root: As data.image_root.
        system: As data.system.
    """

    path: str = key(check=checks.place)
    weight: float | None = key(None, checks.above(0))
    rows: int | None = key(None, checks.at_least(1))
    revision: str | None = key(None, checks.place)
    split: str | None = key(None, checks.place)
    config: str | None = key(None, checks.place)
    columns: Mapping[str, str] | None = key(None, None)
    custom_prompt_format: str | None = key(None, checks.prompt_format)
    image_root: str | None = key(None, checks.place)
    system: str | None = key(None, checks.non_empty)


MISSING = "data.path: missing; name the rows to train on, or several sets of them as [[data.sources]]"

OF_THE_PATH = ("revision", "config")
"""Keys of [data] that belong to `data.path`, and are none of several sources."""


def find_source_contradictions(
    path: str | None, sources: Sequence[SourceSection], others: Mapping[str, object]
) -> Iterator[str]:
    """Yield a sentence for every contradiction of `data.sources`.

    Args:
        path: `data.path`.
        sources: `data.sources`.
        others: The other keys of [data], by name.
    """
    if path is not None and sources:
        yield f"data.path and data.sources: found {path!r} and {len(sources)} sources; keep one of the two"
    for name in OF_THE_PATH if sources else ():
        if others[name] is not None:
            yield f"data.{name}: found {others[name]!r} together with data.sources; give it to the source that it is of"
    weighed = [source.weight is not None for source in sources]
    if any(weighed) and not all(weighed):
        place = weighed.index(False)
        yield f"data.sources[{place}].weight: missing, and other sources have one; give all of them a weight, or none"
    for place, source in enumerate(sources):
        written = source.custom_prompt_format or others["custom_prompt_format"]
        names = placeholders(written) if isinstance(written, str) else None
        for mistake in find_mistakes(source.columns or Names(), names):
            yield mistake.replace("data.columns", f"data.sources[{place}].columns")
