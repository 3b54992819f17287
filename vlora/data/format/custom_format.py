"""Rows read by `data.custom_prompt_format`: messages in which a column's name stands for its value. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from ...errors import SampleError
from ...recipe.columns import IMAGE_COLUMNS, PLACEHOLDER
from ...system.written_json import parse_json
from ..values import Row, write_text
from .layouts import Conversation, list_messages
from .marks import IMAGE_TAG
from .pictures import own_images


def fill_row(prompt_format: str, row: Row, source: str) -> Conversation:
    """Make messages of a row with a custom format, in which `{column}` stands for a column's value."""
    template = parse_json(prompt_format)
    names = tuple(dict.fromkeys(PLACEHOLDER.findall(prompt_format)))
    messages = list_messages(_fill_format(template, row, source), source)
    return Conversation(messages, tuple(name for name in names if name in row))


def _fill_format(template: Any, row: Row, source: str) -> Any:
    if isinstance(template, Mapping):
        return {key: _fill_format(value, row, source) for key, value in template.items()}
    if isinstance(template, list):
        filled = [_fill_format(value, row, source) for value in template]
        # A row without images leaves the format's image parts out.
        return [part for part in filled if not _is_empty_image_part(part)]
    if not isinstance(template, str):
        return template
    name = PLACEHOLDER.fullmatch(template)
    if name and name[1] in IMAGE_COLUMNS:
        # Both placeholders stand for the row's images, whichever column has them.
        return own_images(row, source)

    def value_of(match: re.Match[str]) -> str:
        if match[1] in IMAGE_COLUMNS:
            return IMAGE_TAG * len(own_images(row, source))
        if row.get(match[1]) is None:
            msg = (
                f"{source}: data.custom_prompt_format names the column {match[1]!r}, which has no value here; the row "
                f"has {', '.join(map(str, row))}"
            )
            raise SampleError(msg)
        return write_text(row[match[1]], f"{source}: column {match[1]!r}")

    return PLACEHOLDER.sub(value_of, template)


def _is_empty_image_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") == []
