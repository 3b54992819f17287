"""Converts a row of a data set to a `Sample`: turns with the places of images. Pure.

All layouts of data sets and other trainers are converted here, so that later code has one format to render. Images are
not opened.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from ...arguments import expect_type
from ...errors import SampleError
from ...recipe.columns import COLUMNS, IMAGE_COLUMNS, UNUSED, ColumnUse, is_there, original_use, rename_columns
from ...types import Objects, Sample, Turn
from ..values import Row
from .blank_answers import refuse_blank
from .boxes import BOX_MARK, NAME_MARK, check_marks, has_marks, read_objects, texts_of
from .custom_format import fill_row
from .image_sizes import SIZE_KEYS, SizedImage
from .json_text import show
from .layouts import Conversation, read_conversation
from .lookalikes import looks_like_pictures
from .messages import Draft, Message, read_message, unread_keys
from .pictures import file_name, own_images, row_images, unread_beside
from .placement import place_images
from .preferences import WANTED, read_preference, refuse_pictures
from .tool_calls import drop_gaps, drop_gaps_of_calls, read_tools

Preferences = Literal["pairs", "marks"]
"""What rows have beside one answer: a worse one, or a mark of whether it is wanted."""


@attrs.frozen(kw_only=True)
class Reading:
    """How the rows of a data set are read.

    Attributes:
        custom_prompt_format: As in the recipe, as are the next two.
        columns: See above.
        system: See above.
        kinds: Kinds of columns with a declared type; see `vlora.data.readers.typed_tables.kind_of`.
        preferences: "pairs" for rows with a better and a worse answer, "marks" for those that say whether their answer
            is wanted; None for rows with one answer.
        fills_gaps: Whether objects have None under keys that only other rows have; see
            `vlora.data.readers.table.fills_gaps`.
    """

    custom_prompt_format: str | None = None
    columns: Mapping[str, str] = attrs.field(factory=dict)
    system: str | None = None
    kinds: Mapping[str, str] = attrs.field(factory=dict)
    fills_gaps: bool = False
    preferences: Preferences | None = None


def format_sample(
    row: Row,
    source: str = "row",
    custom_prompt_format: str | None = None,
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
) -> Sample:
    r"""Read a row of any accepted layout.

    Layouts: `messages` or `conversations` (role/content or from/value, images beside them, inside the
    content, or inside the message), `texts` (user/assistant), `prompt` + `completion`, `query` + `response`,
    `instruction` + `output`, `question` + `answer`, `prefix` + `suffix`, an image and `text`, `caption` or `label`
    (the answer to the image alone), or any columns through a custom format. `system`, `tools` and `history` stand
    beside them.

    Images come from `images` or `image`; `<image>` in a text marks the place of the next one (`\<image>` is the word),
    `<image 1>` that of the first, and images that no marker names stand at the start of the first user turn. An image
    part may ask for a size (`resized_height`, `max_pixels`, ...). `objects` holds boxes and names, which `<bbox>` and
    `<ref-object>` in a text stand for; without it they are words.

    A message may hold what the assistant thinks (`reasoning_content`), the tools that it calls (`tool_calls`, or the
    role `function_call` and JSON) and a mark of whether it is learned (`loss`, `weight`, `train`, ...: 0 or 1).

    Args:
        row: Column names to values; images as paths, URLs, bytes, PIL images or `{"bytes", "path"}`.
        source: How error messages name the row.
        custom_prompt_format: JSON of messages in which `{column}` stands for a column's value; a value
            that is `{image}` or `{images}` alone stands for the row's images.
        columns: The row's own names to the names above, or to "unused"; as `data.columns`.
        system: A system prompt for a row that has none.

    Raises:
        SampleError: No conversation in the row, an unknown role, no assistant turn, markers and images that do not
            match, or images in a column that nothing reads.
    """
    expect_type(row, Mapping, "format_sample", "give a dict of columns")
    reading = Reading(custom_prompt_format=custom_prompt_format, columns=columns or {}, system=system)
    return read_sample(row, source, reading)[0]


def read_sample(row: Row, source: str, reading: Reading) -> tuple[Sample, ColumnUse]:
    """Read a row, and return which of its columns were used.

    Args:
        row: As for `format_sample`.
        source: As for `format_sample`.
        reading: How rows are read.

    Raises:
        SampleError: As `format_sample`.
    """
    named = rename_columns(row, reading.columns, source)
    talk = _read_talk(named, source, reading)
    inside = talk.used[0] if talk.used else "messages"
    unread = {f"{inside}.{key}": value for key, value in unread_keys(talk.messages).items()}
    for column in IMAGE_COLUMNS:
        unread |= {f"{column}.{key}": value for key, value in unread_beside(named.get(column)).items()}
    use = original_use(_find_use(named, talk, unread, reading), row, reading.columns)
    images = own_images(named, source)
    _refuse_lost_pictures(row, use, unread, reading, source)
    _refuse_unread_mapping(row, use, reading, source)
    system = named.get("system") if "system" not in talk.used else None
    turns, placed = _place(talk.messages, talk.n_answer, system, images, source, reading)
    rejected: tuple[Turn, ...] = ()
    if talk.rejected:
        n_question = len(talk.messages) - talk.n_answer
        rejected, _ = _place(talk.rejected, len(talk.rejected) - n_question, system, images, source, reading)
    for conversation in filter(None, (turns, rejected)):
        refuse_blank(conversation, source)
    described = named.get("tools")
    tools = read_tools(drop_gaps(described) if reading.fills_gaps else described, source) if described else ()
    objects = _own_objects(named, turns, images, placed, source)
    if objects is not None:
        use |= original_use(ColumnUse({"objects": COLUMNS["objects"]}), row, reading.columns)
    elif "objects" in reading.columns.values() and is_there(named.get("objects")):
        msg = (
            f"{source}: data.columns maps the row's boxes, and no text holds {BOX_MARK} or {NAME_MARK} where one stands"
        )
        raise SampleError(msg)
    sample = Sample(source=source, turns=turns, images=placed, tools=tools, objects=objects)
    return attrs.evolve(sample, rejected=rejected, is_wanted=talk.is_wanted), use


def _read_talk(row: Row, source: str, reading: Reading) -> Conversation:
    """Read the messages of a row, whose columns have the names that are read."""
    if reading.preferences is None:
        own = reading.custom_prompt_format
        talk = read_conversation(row, source) if own is None else fill_row(own, row, source)
    else:
        talk = read_preference(row, source, is_paired=reading.preferences == "pairs")
    if not reading.fills_gaps:
        return talk
    messages, rejected = ([drop_gaps_of_calls(message) for message in part] for part in (talk.messages, talk.rejected))
    return attrs.evolve(talk, messages=messages, rejected=rejected)


def _place(
    messages: Sequence[Message], n_answer: int, system: Any, images: Sequence[Any], source: str, reading: Reading
) -> tuple[tuple[Turn, ...], tuple[Any, ...]]:
    """Make turns of messages, and give images their places; where an answer is compared, only that is learned."""
    drafts = [read_message(message, f"{source}: turn {number}") for number, message in enumerate(messages, 1)]
    if n_answer:
        refuse_pictures(drafts[-n_answer:], source)
    turns, placed = place_images(_put_system_first(drafts, system, source, reading.system), images, source)
    if n_answer:
        question = [attrs.evolve(turn, learned=turn.role != "assistant") for turn in turns[: len(turns) - n_answer]]
        turns = (*question, *turns[len(turns) - n_answer :])
    return turns, placed


def _own_objects(
    row: Row, turns: Sequence[Turn], images: Sequence[Any], placed: Sequence[Any], source: str
) -> Objects | None:
    """Read the boxes of a row; None if it has none, or if no text has a mark."""
    value = row.get("objects")
    # Typed tables fill in None for keys that only other rows have.
    is_empty = isinstance(value, Mapping) and not any(map(is_there, value.values()))
    if not is_there(value) or is_empty or not any(map(has_marks, texts_of(turns))):
        return None
    objects = read_objects(value, source)
    check_marks(turns, objects, source)
    # Rows number images in the order of their column; numbered marks may show them in another order.
    shown = [image.image if isinstance(image, SizedImage) else image for image in placed]
    places = {
        index: next((place for place, image in enumerate(shown) if image is own), index)
        for index, own in enumerate(images)
    }
    return attrs.evolve(objects, images=tuple(places.get(index, index) for index in objects.images))


def _find_use(row: Row, talk: Conversation, unread: Mapping[str, Any], reading: Reading) -> ColumnUse:
    beside = [column for column in (*IMAGE_COLUMNS, "system", "tools") if column in row and column not in talk.used]
    used = {column: COLUMNS.get(column, "data.custom_prompt_format") for column in (*talk.used, *beside)}
    if reading.preferences is not None:
        used |= {column: how for column, how in WANTED.items() if column in used}
    if reading.custom_prompt_format is not None:
        filled = [column for column in talk.used if column not in IMAGE_COLUMNS]
        used |= dict.fromkeys(filled, "data.custom_prompt_format")
    return ColumnUse(used, frozenset(map(str, row.keys() - used.keys())) | unread.keys())


def _refuse_lost_pictures(row: Row, use: ColumnUse, unread: Mapping[str, Any], reading: Reading, source: str) -> None:
    """Refuse a row with images that are not read, unless the recipe marks their column as unused."""
    for key, value in unread.items():
        name = key.rpartition(".")[2]
        if name in SIZE_KEYS:
            msg = f"{source}: {key!r} asks for a size, which only an image part can; write it beside the part's 'type'"
            raise SampleError(msg)
        if looks_like_pictures(name, value):
            msg = f"{source}: there are images under {key!r}, which is not read; write 'images' or an image part"
            raise SampleError(msg)
    known = {name for _, images in row_images(row) for name in map(file_name, images) if name}
    for column in sorted(use.unused & row.keys()):
        value = row[column]
        if reading.columns.get(column) == UNUSED or not is_there(value):
            continue
        if isinstance(value, str) and file_name(value) in known:
            # The name of an image that is read.
            continue
        if reading.kinds.get(column) == "image" or looks_like_pictures(column, value):
            msg = (
                f"{source}: the column {column!r} looks like images, and nothing reads it; in data.columns map it "
                f'({column} = "images") or set it aside ({column} = "{UNUSED}")'
            )
            raise SampleError(msg)


def _refuse_unread_mapping(row: Row, use: ColumnUse, reading: Reading, source: str) -> None:
    """Refuse a row that is read in a layout without a column that the recipe maps."""
    for column, name in reading.columns.items():
        if name not in (UNUSED, "objects") and column in use.unused and is_there(row.get(column)):
            msg = (
                f"{source}: data.columns maps {column!r} to {name!r}, and the row is read from "
                f'{", ".join(use.used) or "none of its columns"} without it; set either aside ({column} = "{UNUSED}")'
            )
            raise SampleError(msg)


def _put_system_first(drafts: Sequence[Draft], own: Any, source: str, default: str | None) -> list[Draft]:
    """Begin a conversation with the system prompt of the row's column, or with the recipe's if the row has none."""
    where = f"{source}: column 'system'"
    if is_there(own) and not isinstance(own, str):
        msg = f"{where}: found {show(own)}, expected a text"
        raise SampleError(msg)
    said = [draft for draft in drafts if draft.role == "system"]
    system = own if is_there(own) else None if said else default
    if not system:
        return list(drafts)
    first = read_message({"role": "system", "content": system}, where)
    if said and [draft.parts for draft in said] != [first.parts]:
        msg = f"{where} and a turn of the conversation both hold a system prompt; take one out"
        raise SampleError(msg)
    return list(drafts) if said else [first, *drafts]
