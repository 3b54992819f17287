"""Numbers that a chat template writes as the row spells them, and not as Python would. Pure.

A template writes objects with Python's JSON, which turns `12.50` into `12.5`. So it is given stand-ins for the numbers
that Python would spell differently, and the stand-ins are replaced in the rendered text. Apart from those numbers, the
text has to be the one that it renders without stand-ins.
"""

import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from ....data.values import write_text
from ....system.written_json import WrittenFloat, WrittenInt, parse_json

# Python writes all of so many digits, before ".5" too, and adds none.
_STAND_IN = re.compile(r"8301749(\d{7})1(?:\.5)?")


def settle(value: Any, where: str) -> Any:
    """Convert a row's values to values of JSON: dates become texts, decimals become numbers with their spelling.

    Args:
        value: The value that a template is to write.
        where: Its name, for the error.

    Raises:
        SampleError: It holds a value that cannot be written: bytes, an image, NaN.
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
        """Replace the numbers within a value that Python would spell differently by stand-ins.

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
        """Replace the stand-ins in a rendered text by the numbers, as the row spells them."""
        return _STAND_IN.sub(lambda found: self._find(found, is_spelled=True), text)

    def respell(self, text: str) -> str:
        """Replace the stand-ins by the numbers as Python's JSON spells them, and the template without stand-ins."""
        return _STAND_IN.sub(lambda found: self._find(found, is_spelled=False), text)

    def _find(self, found: re.Match[str], *, is_spelled: bool) -> str:
        number = int(found[1])
        if number >= len(self.numbers):
            return found[0]
        value = self.numbers[number]
        return value.spelling if is_spelled else json.dumps(value)
