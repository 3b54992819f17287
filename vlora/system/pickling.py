"""Errors whose classes take other arguments than `BaseException` does, made again in another process."""

from collections.abc import Callable
from typing import Any


def reduce_error(error: BaseException) -> tuple[Callable[..., BaseException], tuple[Any, ...], dict[str, Any]]:
    """Give what `__reduce__` of an error returns: it is made again of its arguments and attributes."""
    return _remake, (type(error), error.args), dict(vars(error))


def _remake(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an error without its own `__init__`, which would take something else."""
    made = kind.__new__(kind, *args)
    made.args = args
    return made
