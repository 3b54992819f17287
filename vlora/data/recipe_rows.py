"""Rows that a recipe names: of one source or of several, by their numbers or streamed."""

import attrs

from ..errors import RecipeError
from ..recipe.schema import DataSection
from .format.samples import Preferences
from .mixed_rows import mix_rows
from .mixing import check_sources, join_names, name_held_out, name_sources, naming_source, read_sources, section_of
from .opening import check_paths, read_rows
from .rows import RowDataset
from .stream_opening import check_streams, read_other_stream, read_streams
from .turns import MOST_OF_A_ROUND, find_too_rare


def check_rows(data: DataSection) -> None:
    """Check that the data which a recipe names is there, streamed or not; reading it would raise the same errors.

    Raises:
        RecipeError: It is not, or of a kind that is not read.
    """
    if not data.streaming:
        check = check_sources if data.sources else check_paths
        check(data)
        return
    for place, source in enumerate(data.sources):
        with naming_source(place, source):
            check_streams(section_of(data, source))
    # Of several sources the rows to validate on only.
    check_streams(data)


def open_rows(
    data: DataSection, *, seed: int = 0, preferences: Preferences | None = None
) -> tuple[RowDataset, RowDataset | None]:
    """Open the rows that a recipe names, streamed or not, of one source or of several; see `read_rows`."""
    if not data.streaming:
        read = read_sources if data.sources else read_rows
        return read(data, seed=seed, preferences=preferences)
    if not data.sources:
        return read_streams(data, preferences)
    return _read_stream_sources(data, preferences)


def refuse_stream(data: DataSection) -> None:
    """Refuse a recipe that streams its rows where rows are asked for by their numbers.

    Raises:
        RecipeError: It does.
    """
    if data.streaming:
        msg = (
            "found true, and load_data gives rows by their numbers, which those of a stream do not "
            "have; fit streams them, or give load_data rows of your own"
        )
        raise RecipeError(msg, key="data.streaming")


def _read_stream_sources(data: DataSection, preferences: Preferences | None) -> tuple[RowDataset, RowDataset | None]:
    """Open the streams of several sources, and read the places of the validation rows if the recipe names any.

    Each source gives the first rows of its own, if the recipe holds some out.
    """
    weights = tuple(source.weight for source in data.sources if source.weight is not None)
    rare = find_too_rare(weights) if weights else None
    if rare is not None:
        msg = (
            f"{weights[rare] / sum(weights):.2g} of all rows is less than one of "
            f"{MOST_OF_A_ROUND:,}; give it more, or leave the source out"
        )
        raise RecipeError(msg, key=f"data.sources[{rare}].weight")
    found = []
    for place, source in enumerate(data.sources):
        with naming_source(place, source):
            found.append(read_streams(section_of(data, source), preferences, most=source.rows))
    names = name_sources([train for train, _ in found], data.sources)
    trained = [attrs.evolve(train, name=name) for name, (train, _) in zip(names, found, strict=True)]
    train = mix_rows(join_names(trained), trained, weights=weights or None)
    if data.valid_path is not None:
        return train, read_other_stream(data, preferences)
    return train, name_held_out(names, found)
