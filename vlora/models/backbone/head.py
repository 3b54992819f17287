"""The language model's head, run at given positions only.

The logits of a long row over a large vocabulary are the largest array of a training step, and most of them predict
nothing that is learned. The head gets the needed places only, and stays within the model, so that later operations
(softcaps, scales) still apply. `head_search.py` finds the head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ...facts import HeadUse
from ..forward.overrides import override_attributes, override_call

Tap = Callable[[Callable[[mx.array], mx.array], mx.array], mx.array]
"""(the head, its input) -> the output that the model gets."""


@attrs.frozen
class Head:
    """The module that turns hidden states into logits.

    Attributes:
        name: The module's qualified name.
        is_tied: It is an embedding, used through its `as_linear`.
        stack: The name of the module whose output the head takes as it is; None if there is none, so that the
            head cannot be run without the layers before it.
    """

    name: str
    is_tied: bool
    stack: str | None = None


def head_use(head: Head | None) -> HeadUse:
    """Describe at which tokens a head runs, and whether in chunks."""
    if head is None:
        return HeadUse(extent="all")
    return HeadUse(extent="supervised" if head.stack is None else "chunks", module=head.name)


def sound_head(head: Head | None) -> Head:
    """Return a head that can run without the layers before it.

    Raises:
        RuntimeError: There is none.
    """
    if head is None:
        msg = "the model's head cannot be run apart from its layers; use logits()"
        raise RuntimeError(msg)
    return head


def pack_head(head: Head | None) -> dict[str, Any] | None:
    """Write a head as JSON."""
    return None if head is None else attrs.asdict(head)


def unpack_head(packed: dict[str, Any] | None) -> Head | None:
    """Read what `pack_head` wrote."""
    return None if packed is None else Head(**packed)


def is_packed_head(packed: Any, module: nn.Module) -> bool:
    """Whether a value may be the result of `pack_head` for a model."""
    if packed is None:
        return True
    if not isinstance(packed, dict) or packed.keys() != attrs.fields_dict(Head).keys():
        return False
    names = [name for name, _ in module.named_modules()]
    is_there = packed["name"] in names and (packed["stack"] is None or packed["stack"] in names)
    return is_there and isinstance(packed["is_tied"], bool)


@contextmanager
def tapped(module: nn.Module, head: Head, tap: Tap) -> Iterator[None]:
    """Insert a function between a model and its head, in this instance only."""
    target = find_module(module, head.name)
    if head.is_tied:
        original = target.as_linear
        with override_attributes(target, as_linear=lambda hidden: tap(original, hidden)):
            yield
        return
    cls = type(target)

    def call(self: nn.Module, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return tap(lambda taken: cls.__call__(self, taken, *args, **kwargs), hidden)

    try:
        target.__class__ = type(f"Tapped{cls.__name__}", (cls,), {"__call__": call})
        yield
    finally:
        target.__class__ = cls


def find_module(module: nn.Module, name: str) -> nn.Module:
    """Find a module within another by its qualified name."""
    found: Any = module
    for part in filter(None, name.split(".")):
        found = found[int(part)] if isinstance(found, list) else getattr(found, part)
    result: nn.Module = found
    return result


@contextmanager
def gather_before_head(module: nn.Module, head: Head, places: mx.array) -> Iterator[None]:
    """Let the head see the hidden states at some places only.

    Args:
        module: The model.
        head: Its head.
        places: i32[N], flat places in [B, T'].

    Raises:
        RuntimeError: The head was not called exactly once, so that the logits would be wrong.
    """
    calls = 0

    def tap(run: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
        nonlocal calls
        calls += 1
        return run(hidden.reshape(-1, hidden.shape[-1])[places][None])

    with tapped(module, head, tap):
        yield
    if calls != 1:
        msg = f"the model called its head {head.name!r} {calls} times in one forward; expected once"
        raise RuntimeError(msg)


@contextmanager
def run_head_only(module: nn.Module, head: Head, hidden: mx.array) -> Iterator[None]:
    """Replace the output of the layers before the head by these hidden states.

    Args:
        module: The model.
        head: Its head; `head.stack` is not None.
        hidden: f[B, T, D], as the layers gave them.
    """
    with override_call(find_module(module, str(head.stack)), lambda *_, **__: hidden):
        yield


class _Taken(Exception):  # noqa: N818 - no error: it ends a forward whose rest is of no use
    """The head's input was reached."""


@contextmanager
def capture_hidden(module: nn.Module, head: Head, places: mx.array, into: list[mx.array]) -> Iterator[None]:
    """Append the head's input at some places, f[N, D], to a list; the head and later operations do not run."""

    def tap(_: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
        into.append(hidden.reshape(-1, hidden.shape[-1])[places])
        raise _Taken

    try:
        with tapped(module, head, tap):
            yield
    except _Taken:
        pass
