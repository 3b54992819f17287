"""Columns of data sets: which names mean something, how others are mapped to them, which of a row's are used. Pure."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..errors import SampleError

Row = Mapping[str, Any]

UNUSED = "unused"
"""What `data.columns` maps a column to that is to be left alone."""

COLUMNS = {
    "messages": "the conversation",
    "conversations": "the conversation",
    "conversation": "the conversation",
    "texts": "the conversation",
    "prompt": "the question",
    "completion": "the answer",
    "query": "the question",
    "response": "the answer",
    "instruction": "the question",
    "input": "the question's end",
    "output": "the answer",
    "question": "the question",
    "answer": "the answer",
    "prefix": "the question",
    "suffix": "the answer",
    "text": "the answer to an image alone",
    "caption": "the answer to an image alone",
    "label": "the answer to an image alone",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "rejected_response": "the worse answer",
    "rejected_messages": "the conversation with the worse answer",
    "kto_tag": "whether the answer is wanted",
    "history": "earlier turns",
    "system": "the system prompt",
    "tools": "tools that may be called",
    "objects": "boxes",
    "images": "images",
    "image": "images",
}
"""Names that layouts read, and what as."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")
"""What stands for a column in `data.custom_prompt_format`."""

IMAGE_COLUMNS = ("images", "image")
"""Names of images. Several columns may be mapped to one of them; their values are taken in the order of the recipe."""

BESIDES = (*IMAGE_COLUMNS, "system", "tools", "objects")
"""Names that every layout, and a format of one's own, may have besides its own."""


@attrs.frozen
class ColumnUse:
    """What became of the columns of rows.

    Attributes:
        used: Those that are read, and what as.
        unused: Those that are not.
    """

    used: Mapping[str, str] = attrs.field(factory=dict)
    unused: frozenset[str] = frozenset()

    def __or__(self, other: "ColumnUse") -> "ColumnUse":
        """Join what became of the columns of different rows."""
        used = {**self.used, **other.used}
        return ColumnUse(used, (self.unused | other.unused) - used.keys())

    def is_part_of(self, other: "ColumnUse") -> bool:
        """Whether another one says all of this."""
        return self.used.keys() <= other.used.keys() and self.unused <= other.unused | other.used.keys()


def find_mistakes(columns: Mapping[str, str], placeholders: frozenset[str] | None = None) -> Iterator[str]:
    """Say what is wrong with the mapping of a recipe.

    Args:
        columns: A data set's name to a name that is read, or to "unused".
        placeholders: Names of data.custom_prompt_format, which takes the place of the layouts; None without one.
    """
    known = [*(COLUMNS if placeholders is None else BESIDES), UNUSED]
    known += sorted((placeholders or frozenset()) - set(known))
    for column, name in columns.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            yield f"data.columns.{column}: found {name!r}, which nothing reads; {hint}"
    targets = [name for name in columns.values() if name not in (UNUSED, *IMAGE_COLUMNS)]
    for name in sorted({name for name in targets if targets.count(name) > 1}):
        twice = " and ".join(column for column, target in columns.items() if target == name)
        yield f"data.columns: found {twice} as {name!r}; only images are gathered from several columns"


def placeholders(prompt_format: str) -> frozenset[str]:
    """Name the columns of a custom format."""
    return frozenset(PLACEHOLDER.findall(prompt_format))


def rename_columns(row: Row, columns: Mapping[str, str], source: str) -> Row:
    """Give a row under the names that are read.

    Args:
        row: As the data set has it; stays as it is.
        columns: As the recipe maps them.
        source: The row, for errors.

    Raises:
        SampleError: A column is mapped to a name that the row has a column of, too.
    """
    if not columns:
        return row
    renamed = {column: value for column, value in row.items() if column not in columns}
    gathered: dict[str, list[Any]] = {}
    for column, name in columns.items():
        if name == UNUSED or column not in row:
            continue
        if column != name and is_there(renamed.get(name)):
            msg = (
                f"{source}: data.columns maps {column!r} to {name!r}, and the row has a column {name!r} too; set it "
                f'aside ({name} = "{UNUSED}")'
            )
            raise SampleError(msg)
        if name in IMAGE_COLUMNS:
            gathered.setdefault(name, []).append(row[column])
        else:
            renamed[name] = row[column]
    return {**renamed, **gathered}


def original_use(use: ColumnUse, row: Row, columns: Mapping[str, str]) -> ColumnUse:
    """Say of a row's own columns what `use` says of those of the row as `rename_columns` gives it."""
    sources: dict[str, list[str]] = {}
    for column, name in columns.items():
        if column in row:
            sources.setdefault(name, []).append(column)
    used: dict[str, str] = {}
    for name, how in use.used.items():
        renamed = [column for column in sources.get(name, ()) if column != name]
        used |= dict.fromkeys(renamed, f"as {name}" if name == how else f"as {name}: {how}")
        if not renamed or name in sources[name]:
            used[name] = how
    aside = set(sources.get(UNUSED, ()))
    mapped = {column for name in use.unused for column in sources.get(name, (name,))}
    return ColumnUse(used, frozenset(aside | mapped))


def is_there(value: Any) -> bool:
    """Whether a column has a value: neither nothing nor an empty text, list or object."""
    return value is not None and not (isinstance(value, (str, bytes, list, tuple, Mapping)) and len(value) == 0)
