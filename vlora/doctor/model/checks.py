"""All checks of a model, one after the other: what the first ones find wrong, the others are not asked."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from ...build import Data
from ...errors import CheckError, VloraError
from ...memory.limits import memory_limits
from ...recipe.schema import Recipe
from ...system.nouns import with_noun
from ..checks import Outcome
from .adapter import check_adapter
from .answers import check_answers
from .apart import check_causality, check_images, check_joining, check_packing, check_padding, check_rows
from .masks import check_masks
from .opening import describe_model, encode_rows, find_bad_weights, open_subject, without_rows
from .quantized import check_quantized
from .steps import check_compiled, check_gradients
from .subject import LeftOut, Subject

Check = Callable[[Subject, Path], str | LeftOut]


def _alone(check: Callable[[Subject], str | LeftOut]) -> Check:
    """Give a check that writes nothing its folder."""
    return lambda subject, _: check(subject)


CHECKS: Mapping[str, Check] = {
    "images": _alone(check_images),
    "rows": _alone(check_rows),
    "padding": _alone(check_padding),
    "later tokens": _alone(check_causality),
    "joining": _alone(check_joining),
    "packing": _alone(check_packing),
    "compiled": _alone(check_compiled),
    "gradients": _alone(check_gradients),
    "answers": _alone(check_answers),
    "adapter": check_adapter,
    "4 bits": _alone(check_quantized),
}
"""Checks of a model that is open and has rows. The last one changes the model."""

FIRST = ("opens", "weights", "encoding", "masks")
"""What is checked before; where one of the first three fails, nothing that follows means anything."""

NAMES = (*FIRST, *CHECKS)


@attrs.frozen(kw_only=True)
class Begun:
    """A check that has begun.

    Attributes:
        name: Its name.
        number: Which one, counted from 1.
        n_checks: How many there are.
    """

    name: str
    number: int
    n_checks: int


def check_model(
    recipe: Recipe, folder: Path, arguments: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Begun | Outcome]:
    """Check a recipe's model: whether it opens, whether its rows are right, and whether it can be trained.

    Args:
        recipe: Its model, and how it is trained; rows are made here.
        folder: For what is written.
        arguments: What is told in place of a recipe's keys (`VloraError.rename`).

    Yields:
        Each check when it begins, and what it found.
    """
    with memory_limits(recipe.memory):
        opened = _Opening(recipe=without_rows(recipe))
        for name, check in opened.checks().items():
            yield _begin(name)
            outcome = run_check(name, check, arguments)
            yield outcome
            if not outcome.is_ok and name != FIRST[-1]:
                yield from _leave_out(name)
                return
        for name, own in CHECKS.items():
            yield _begin(name)
            yield run_check(name, functools.partial(own, opened.subject, folder), arguments)


def run_check(
    name: str, check: Callable[[], str | LeftOut], arguments: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """Run a check and say what it found, whatever it raises; the arguments are those of `check_model`."""
    began = time.perf_counter()
    is_left_out = False
    try:
        found, is_ok = check(), True
    except VloraError as error:
        error.rename(arguments)
        found, is_ok = str(error), False
    except Exception as error:  # noqa: BLE001 - whatever a model, its processor or MLX comes up with is what we are after
        found, is_ok = f"{type(error).__name__}: {error}; report it", False
    if isinstance(found, LeftOut):
        found, is_left_out = found.reason, True
    seconds = time.perf_counter() - began
    return Outcome(name=name, is_ok=is_ok, found=found, seconds=seconds, is_left_out=is_left_out)


def _begin(name: str) -> Begun:
    return Begun(name=name, number=NAMES.index(name) + 1, n_checks=len(NAMES))


def _leave_out(failed: str) -> Iterator[Outcome]:
    for name in NAMES[NAMES.index(failed) + 1 :]:
        yield Outcome(name=name, is_ok=True, found=f"not checked; see {failed}", seconds=0.0, is_left_out=True)


@attrs.define(eq=False, kw_only=True)
class _Opening:
    """Opens a model step by step.

    Attributes:
        recipe: The recipe.
        subject: The model, once it is open.
        data: Its rows and its processor.
    """

    recipe: Recipe
    subject: Subject = attrs.field(init=False)
    data: Data = attrs.field(init=False)

    def checks(self) -> dict[str, Callable[[], str | LeftOut]]:
        """Give the first checks by name."""
        return dict(zip(FIRST, (self.open, self.look, self.encode, self.mask), strict=True))

    def open(self) -> str:
        """Open the model as a run does."""
        self.subject, self.data = open_subject(self.recipe)
        return describe_model(self.subject, self.data)

    def look(self) -> str:
        """Look for weights that are no numbers."""
        if bad := find_bad_weights(self.subject):
            msg = (
                f"weights are not finite in {with_noun(len(bad), 'array', commas=False)}, {bad[0]} first; download or "
                "convert the model again"
            )
            raise CheckError(msg)
        return "all are finite"

    def encode(self) -> str:
        """Encode the rows."""
        refused = encode_rows(self.subject, self.data)
        lengths = sorted(len(example.tokens) for example in self.subject.examples)
        rest = "".join(f"; not read: {reason}" for reason in refused)
        return f"{len(lengths)} rows of {lengths[0]} to {lengths[-1]} tokens{rest}"

    def mask(self) -> str | LeftOut:
        """Look at what is learned of each row."""
        return check_masks(self.subject)
