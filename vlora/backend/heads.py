"""The language model's head, run at selected places only.

The logits of a long row over a large vocabulary are the largest array of a training step, and most of them predict
nothing that is learned. The head is left where it is, and only sees the places that count: whatever the model does
behind it (softcaps, scales) still happens. Where it stands is found by watching one small forward, and believed only
if the selected logits are the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ..adapters import HEADS
from .corrections import instance_attributes

TOLERANCE = 0.02
"""Of the logits' spread; kernels of different shapes round differently in bfloat16."""

Tap = Callable[[Callable[[mx.array], mx.array], mx.array], mx.array]
"""(the head, its input) -> what the model gets for its output."""


@attrs.frozen
class Head:
    """Where a model turns hidden states into logits.

    Attributes:
        name: The module's qualified name.
        is_tied: It is an embedding, used through its `as_linear`.
    """

    name: str
    is_tied: bool


@contextmanager
def tapped(module: nn.Module, head: Head, tap: Tap) -> Iterator[None]:
    """Put a function between the model and its head, in this one model."""
    target: Any = module
    for part in filter(None, head.name.split(".")):
        target = target[int(part)] if isinstance(target, list) else getattr(target, part)
    if head.is_tied:
        original = target.as_linear
        with instance_attributes(target, as_linear=lambda hidden: tap(original, hidden)):
            yield
        return
    cls = type(target)

    def call(self: nn.Module, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return tap(lambda selected: cls.__call__(self, selected, *args, **kwargs), hidden)

    try:
        target.__class__ = type(f"Tapped{cls.__name__}", (cls,), {"__call__": call})
        yield
    finally:
        target.__class__ = cls


@contextmanager
def selecting(module: nn.Module, head: Head, places: mx.array) -> Iterator[None]:
    """Let the head see the hidden states at some places only.

    Args:
        module: The model.
        head: Its head.
        places: i32[N], flat places in [B, T'].

    Raises:
        RuntimeError: The head is called more or less than once, so that the logits would be others than asked for.
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


def find_head(module: nn.Module, run: Callable[[], mx.array], n_tokens: int) -> Head | None:
    """Find the head and check that it can be run at selected places.

    Args:
        module: The model.
        run: One forward on a row of `n_tokens`: f[1, T, V].
        n_tokens: T of that row.

    Returns:
        The head; None if the model has none that gives its own logits at selected places.
    """
    full = run().astype(mx.float32)
    candidates = list(_candidates(module))
    calls: list[Head] = []

    def watch(head: Head) -> Tap:
        def tap(run: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
            if hidden.ndim == full.ndim and hidden.shape[:2] == full.shape[:2]:
                calls.append(head)
            return run(hidden)

        return tap

    with ExitStack() as taps:
        for head in candidates:
            taps.enter_context(tapped(module, head, watch(head)))
        run()
    places = mx.array([n_tokens - 1, n_tokens // 2, 0])
    expected = full.reshape(-1, full.shape[-1])[places]
    for head in reversed(calls):
        if calls.count(head) > 1:
            continue
        with selecting(module, head, places):
            found = run().astype(mx.float32)
        if found.size == expected.size:
            difference = mx.abs(found.reshape(expected.shape) - expected).max()
            if float(difference) <= TOLERANCE * float(full.std()):
                return head
    return None


def _candidates(module: nn.Module) -> Iterator[Head]:
    for name, child in module.named_modules():
        if hasattr(child, "as_linear"):
            yield Head(name, is_tied=True)
        elif name.rpartition(".")[2] in HEADS and not {"layers", "blocks"} & set(name.split(".")):
            yield Head(name, is_tied=False)
