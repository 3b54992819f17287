"""What a value of a recipe may be: each check says what is wrong with a value of the right type, or None. Pure."""

import re

import attrs

from ..system.written_json import explain_json, parse_json

MOST_GB = 10**9
"""A billion gigabytes: what is beyond it is a slip."""

MOST_SIDE = 2**16 - 1
"""Pixels of a side of an image; no common format has more."""

HALF = 0.5

TRACKERS = {"tensorboard": ("tb", "tensorboardx"), "trackio": (), "wandb": ("w&b", "weights & biases"), "mlflow": ()}
"""What `output.trackers` may name, and other names for it."""

PATTERN = "re:"
"""What a target of `lora.targets` begins with that is a regular expression."""


@attrs.frozen
class Bounds:
    """A check of a number.

    Attributes:
        minimum: It is that at least.
        above: It is greater than that.
        maximum: It is that at most.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None

    def __call__(self, value: float) -> str | None:
        """Say what is wrong."""
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above}"
        return f"must be at least {self.minimum}" if self.minimum is not None and value < self.minimum else None

    def describe(self) -> dict[str, float]:
        """Name the bounds as JSON Schema does."""
        names = {"minimum": self.minimum, "exclusiveMinimum": self.above, "maximum": self.maximum}
        return {name: bound for name, bound in names.items() if bound is not None}


def at_least(minimum: float) -> Bounds:
    """A number of a least size."""
    return Bounds(minimum=minimum)


def above(minimum: float) -> Bounds:
    """A number above another."""
    return Bounds(above=minimum)


def within(minimum: float, maximum: float) -> Bounds:
    """A number between two others, or one of them."""
    return Bounds(minimum=minimum, maximum=maximum)


def gigabytes(value: float) -> str | None:
    """An amount of memory that some machine might have, or none."""
    return within(0, MOST_GB)(value)


def some_gigabytes(value: float) -> str | None:
    """An amount of memory that some machine might have."""
    return above(0)(value) or gigabytes(value)


def place(value: str) -> str | None:
    """A name that a file, a folder or a data set can have."""
    if "\0" in value:
        return "must not have a NUL character, which no name of a file has"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "must be UTF-8; it has half of a pair of surrogates, or bytes of another encoding"
    return non_empty(value)


def fraction(value: float) -> str | None:
    """A share that is not the whole."""
    return None if 0 <= value < 1 else "must be at least 0 and less than 1"


def minority(value: float) -> str | None:
    """A share of less than half."""
    return None if 0 <= value < HALF else f"must be at least 0 and less than {HALF}"


def weights(value: tuple[float, ...]) -> str | None:
    """Factors of which none turns a loss round."""
    return "must be numbers of at least 0" if any(weight < 0 for weight in value) else None


def non_empty(value: str) -> str | None:
    """A text."""
    return None if value else "must not be empty"


def positive_pair(value: tuple[int, int]) -> str | None:
    """A height and a width."""
    if max(value) > MOST_SIDE:
        return f"must be two numbers of at most {MOST_SIDE}, height and width"
    return None if min(value) > 0 else "must be two positive numbers, height and width"


def betas(value: tuple[float, float]) -> str | None:
    """Two decay rates."""
    return None if all(0 <= beta < 1 for beta in value) else "must be two numbers in [0, 1)"


def bits(value: int) -> str | None:
    """A width that MLX quantizes to."""
    return None if value in (2, 3, 4, 5, 6, 8) else "must be 2, 3, 4, 5, 6 or 8"


def group_size(value: int) -> str | None:
    """A group that MLX quantizes with."""
    return None if value in (32, 64, 128) else "must be 32, 64 or 128"


def some_or_all(value: int) -> str | None:
    """A number of things, or -1."""
    return None if value > 0 or value == -1 else "must be at least 1, or -1 for all"


def prompt_format(value: str) -> str | None:
    """JSON of messages."""
    try:
        parsed = parse_json(value)
    except ValueError as error:
        return f"must be JSON ({explain_json(error)})"
    if not isinstance(parsed, (dict, list)):
        return 'must be a JSON object such as {"user": [...], "assistant": [...]}'
    return None


def tokens(value: tuple[str, ...]) -> str | None:
    """Tokens, none of them empty or twice."""
    for token in value:
        if not token.strip():
            return f"has the token {token!r}, which is empty"
        if any("\ud800" <= character <= "\udfff" for character in token):
            return f"has the token {token!r}, which has half of a pair of surrogates"
    twice = [token for token in value if value.count(token) > 1]
    return f"has the token {twice[0]!r} twice" if twice else None


def trackers(value: tuple[str, ...]) -> str | None:
    """Trackers, none of them twice."""
    for name in value:
        if name not in TRACKERS:
            near = [known for known, others in TRACKERS.items() if name.lower() in (known, *others)]
            hint = f"did you mean {near[0]!r}?" if near else f"must be among {', '.join(TRACKERS)}"
            return f"has {name!r}, which is no tracker; {hint}"
    twice = [name for name in value if value.count(name) > 1]
    return f"has {twice[0]!r} twice" if twice else None


def names(value: tuple[str, ...]) -> str | None:
    """Names, none of them empty or twice."""
    if not all(name.strip() for name in value):
        return "has an empty name"
    twice = [name for name in value if value.count(name) > 1]
    return f"has {twice[0]!r} twice" if twice else None


def patterns(value: tuple[str, ...]) -> str | None:
    """Targets of adapters, of which none is empty and each regular expression is one."""
    for target in value:
        if not target.removeprefix(PATTERN):
            return "has an empty target"
        if target.startswith(PATTERN):
            try:
                re.compile(target.removeprefix(PATTERN))
            except re.error as error:
                return f"{target!r} is no regular expression ({error})"
    return None
