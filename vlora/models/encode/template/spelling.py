"""Numbers that come out of a chat template as they stand in a row, and not as Python would write them. Pure.

A template writes objects with Python's JSON, in which `12.50` is `12.5`. So it is given other numbers in place of those
that would be written otherwise, and they are replaced in what it writes; without them it has to write the same.
"""

import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from ....data.values import write_text
from ....system.written_json import WrittenFloat, WrittenInt, parse_json

# Of so many digits Python writes all, and none more, before ".5" too.
_STAND_IN = re.compile(r"8301749(\d{7})1(?:\.5)?")


def settle(value: Any, where: str) -> Any:
    """Make values that JSON has of those that a row has: dates become texts, decimals numbers as they are written.

    Args:
        value: What a template is to write.
        where: What it is, for the error.

    Raises:
        SampleError: It holds what is not to be written: bytes, an image, NaN.
    """
    if isinstance(value, Mapping):
        return {str(key): settle(inner, where) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [settle(inner, where) for inner in value]
    if value is None or isinstance(value, (str, bool, WrittenInt, WrittenFloat)):
        return value
    text = write_text(value, where)
    if isinstance(value, (dt.date, dt.time)):
        return text
    number = parse_json(text)
    return value if type(value) is type(number) else number


@attrs.define(eq=False)
class StandIns:
    """Stand-ins for the numbers of one conversation.

    Attributes:
        numbers: The numbers that they stand for.
    """

    numbers: list[WrittenInt | WrittenFloat] = attrs.field(factory=list)

    def put(self, value: Any) -> Any:
        """Put stand-ins in place of the numbers within a value that Python would not write as they are written.

        Args:
            value: What `settle` gives.
        """
        if isinstance(value, Mapping):
            return {key: self.put(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.put(inner) for inner in value]
        if not isinstance(value, (WrittenInt, WrittenFloat)):
            return value
        self.numbers.append(value)
        whole = f"8301749{len(self.numbers) - 1:07d}1"
        return int(whole) if isinstance(value, WrittenInt) else float(f"{whole}.5")

    def spell(self, text: str) -> str:
        """Replace them in what a template has written by the numbers, as they are written."""
        return _STAND_IN.sub(lambda found: self._find(found, is_spelled=True), text)

    def respell(self, text: str) -> str:
        """Replace them by the numbers as Python's JSON writes them: as the template does without stand-ins."""
        return _STAND_IN.sub(lambda found: self._find(found, is_spelled=False), text)

    def _find(self, found: re.Match[str], *, is_spelled: bool) -> str:
        number = int(found[1])
        if number >= len(self.numbers):
            return found[0]
        value = self.numbers[number]
        return value.spelling if is_spelled else json.dumps(value)
