"""Checks of what public functions are given: a slip in a program, and nothing that a recipe's user can mend."""


def expect_type(value: object, kind: type | tuple[type, ...], where: str, remedy: str) -> None:
    """Refuse an argument of a type that a public function does not take.

    Args:
        value: The argument.
        kind: The types that it may have.
        where: The function, and the argument if that is not plain.
        remedy: What to give instead.

    Raises:
        TypeError: It has another type. A slip in a program, and nothing that a recipe's user can mend.
    """
    if not isinstance(value, kind):
        msg = f"{where}: found a value of type {type(value).__name__}; {remedy}"
        raise TypeError(msg)


def expect_at_least(value: float, least: float, where: str) -> None:
    """Refuse a number that is too small, or none; `where` as for `expect_type`.

    Raises:
        ValueError: It is below the least.
    """
    if not value >= least:
        msg = f"{where}: found {value}; give {least} or more"
        raise ValueError(msg)
