"""Rows of several sources, as a recipe names them in `[[data.sources]]`."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from ..errors import RecipeError
from ..recipe.schema import DataSection
from ..recipe.sources import SourceSection
from .format.samples import Preferences
from .held_out import hold_out
from .mixed_rows import MixedRows, mix_rows
from .opening import check_paths, read_other_rows, read_rows
from .rows import RowDataset

OWN = ("path", "revision", "split", "config", "columns", "custom_prompt_format", "image_root", "system")
"""Keys of a source that take the place of those of [data]."""


def check_sources(data: DataSection) -> None:
    """Check that the data of all sources is there; see `check_paths`."""
    for place, source in enumerate(data.sources):
        with naming_source(place, source):
            check_paths(section_of(data, source))


def read_sources(
    data: DataSection, *, seed: int = 0, preferences: Preferences | None = None
) -> tuple[RowDataset, RowDataset | None]:
    """Read the rows of all sources to train on, and those to validate on if the recipe names any.

    Each source gives its own `valid_split` or `valid_fraction`; all rows to validate on are read once, without weights.

    Args:
        data: The recipe's section.
        seed: Fixes which rows `valid_fraction` holds out.
        preferences: As for `read_rows`.

    Raises:
        RecipeError: There is no such data set, split or file, or it is empty; or a weight leaves nothing of a source.
    """
    found = []
    for place, source in enumerate(data.sources):
        with naming_source(place, source):
            train, valid = read_rows(section_of(data, source), seed=seed, preferences=preferences)
            train = _limit(train, source.rows)
            found.append((train, valid) if valid is not None else hold_out(train, data.valid_fraction, seed))
    names = name_sources([train for train, _ in found], data.sources)
    trained = [attrs.evolve(train, name=name) for name, (train, _) in zip(names, found, strict=True)]
    weights = [source.weight for source in data.sources if source.weight is not None]
    train = mix_rows(join_names(trained), trained, weights=weights or None)
    _refuse_unlearned(train)
    if data.valid_path is not None:
        return train, read_other_rows(data, preferences=preferences)
    return train, name_held_out(names, found)


def name_held_out(names: Sequence[str], found: Sequence[tuple[RowDataset, RowDataset | None]]) -> MixedRows | None:
    """Join the rows of each source that are held out, under the names of their sources.

    Args:
        names: Of the sources.
        found: Their rows to train on, and those that are held out.
    """
    held_out = [
        attrs.evolve(valid, name=name if valid.name == before.name else valid.name)
        for name, (before, valid) in zip(names, found, strict=True)
        if valid is not None
    ]
    return mix_rows(join_names(held_out), held_out) if held_out else None


def section_of(data: DataSection, source: SourceSection) -> DataSection:
    """Give a section of one source only."""
    own = {name: getattr(source, name) for name in OWN if getattr(source, name) is not None}
    # What is held out is a share of the rows that are used.
    return attrs.evolve(data, **own, sources=(), valid_path=None, valid_fraction=0.0)


def _limit(rows: RowDataset, most: int | None) -> RowDataset:
    return rows if most is None or most >= len(rows) else attrs.evolve(rows, indices=rows.indices[:most])


def name_sources(found: Sequence[RowDataset], sources: Sequence[SourceSection]) -> list[str]:
    """Name sources apart, by their paths where the names of their files are the same."""
    times = Counter(rows.name for rows in found)
    names = [
        rows.name if times[rows.name] == 1 else rows.name.replace(Path(source.path).name, source.path, 1)
        for rows, source in zip(found, sources, strict=True)
    ]
    again = Counter(names)
    return [name if again[name] == 1 else f"{name} (source {place})" for place, name in enumerate(names)]


def join_names(found: Sequence[RowDataset]) -> str:
    """Name all sources together."""
    return " + ".join(rows.name for rows in found)


def _refuse_unlearned(train: MixedRows) -> None:
    """Refuse weights by which an epoch has no row of a source."""
    for place, share in enumerate(train.shares()):
        if share.wanted is not None and not share.n_drawn:
            msg = (
                f"{share.wanted:.2g} of the {len(train):,} rows of an epoch is less than "
                f"one row of {share.name}; give it more, or leave the source out"
            )
            raise RecipeError(msg, key=f"data.sources[{place}].weight")


@contextlib.contextmanager
def naming_source(place: int, source: SourceSection) -> Iterator[None]:
    """Let an error be about the source: about its key, if it has its own, or about a key of [data] that it shares."""
    try:
        yield
    except RecipeError as error:
        section, _, rest = (error.key or "").partition(".")
        own = rest.partition(".")[0]
        if section == "data" and own in OWN and getattr(source, own) is not None:
            error.key = f"data.sources[{place}].{rest}"
        else:
            error.message, error.key = str(error), f"data.sources[{place}]"
        raise
