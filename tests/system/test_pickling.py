"""Errors on their way to another process."""

import pickle
from typing import Any

from vlora.system.pickling import reduce_error


class NumberedError(ValueError):
    """An error whose class takes another argument than its message."""

    def __init__(self, number: int) -> None:
        """Name the number."""
        super().__init__(f"found {number}")
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again of the message and the number."""
        return reduce_error(self)


def test_an_error_is_made_again() -> None:
    """Its message, its attributes and its notes come along; it is not made by its own arguments."""
    error = NumberedError(3)
    error.add_note("a note")
    found = pickle.loads(pickle.dumps(error))

    assert isinstance(found, NumberedError)
    assert (str(found), found.args, found.number, found.__notes__) == ("found 3", ("found 3",), 3, ["a note"])
