"""Texts that were written before: rows come again in every epoch, and many rows have the same texts."""

import pickle
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
import numpy as np

from ...types import Sample

MOST_BYTES = 2**26
"""Of texts and tokens together; what comes when it is full is written anew."""

ENTRY_BYTES = 1024
"""Counted for each entry beside its text and its arrays."""


Result = TypeVar("Result")
"""A record of attrs with texts and arrays."""


@attrs.define(eq=False)
class WrittenMemory(Generic[Result]):
    """Remembers what the texts of rows became. Threads may share it.

    What is remembered depends on the turns, the tools and the number of images alone; the images are not kept.

    Attributes:
        most_bytes: Budget.
        held_bytes: What is kept.
    """

    most_bytes: int = MOST_BYTES
    held_bytes: int = attrs.field(default=0, init=False)
    _found: dict[bytes, Result] = attrs.field(factory=dict, init=False)

    def get_or_compute(self, sample: Sample, make: Callable[[Sample], Result]) -> Result:
        """Give what a row's texts became; it is made now if it is not remembered.

        Args:
            sample: The row.
            make: Makes it. The arrays of its result are shared, and can no longer be written to.
        """
        key = _key_of(sample)
        if key is None:
            return make(sample)
        found = self._found.get(key)
        if found is None:
            found = make(sample)
            size = len(key) + ENTRY_BYTES + _seal(found)
            if self.held_bytes + size <= self.most_bytes:
                self.held_bytes += size
                self._found[key] = found
        return found


def _key_of(sample: Sample) -> bytes | None:
    """Spell all that decides what a row's texts become; None if that cannot be spelled."""
    try:
        return pickle.dumps((sample.turns, sample.tools, sample.objects, len(sample.images)))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        return None


def _seal(made: Any) -> int:
    """Forbid writing to the arrays of a record, and count the bytes of its texts and arrays."""
    size = 0
    for field in attrs.fields(type(made)):
        value = getattr(made, field.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
            size += value.nbytes
        elif isinstance(value, str):
            size += 4 * len(value)
    return size
