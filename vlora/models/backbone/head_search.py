"""Finds a model's head.

The calls of one small forward are recorded, and a head is accepted only if its logits at some positions are those of
the model.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ...adapters.names import HEADS
from .head import Head, Tap, capture_hidden, gather_before_head, run_head_only, tapped

TOLERANCE = 0.02
"""Of the logits' spread: the root of the mean squared difference. Kernels of different shapes round differently in
bfloat16, and one logit of a hundred thousand may be off by several times that."""

LARGEST = 5
"""Multiple of the tolerance by which a single logit may differ."""


def find_head(
    module: nn.Module, run: Callable[[], mx.array], n_tokens: int, *, is_verified: bool = True
) -> Head | None:
    """Find the head and check that it can be run at given positions.

    Args:
        module: The model.
        run: One forward on two rows of `n_tokens`: f[2, T, V].
        n_tokens: T of those rows.
        is_verified: Whether logits are computed and compared; otherwise their shapes are.

    Returns:
        The head; None if the model has none that gives its own logits at given positions.
    """
    full = run().astype(mx.float32)
    calls, stacks = _watch(module, run, full)
    places = mx.array([n_tokens - 1, n_tokens // 2, 0])
    expected = full.reshape(-1, full.shape[-1])[places]
    tolerance = TOLERANCE * full.std()

    def agrees(found: mx.array) -> bool:
        if found.size != expected.size or not is_verified:
            return found.size == expected.size
        difference = mx.abs(found.astype(mx.float32).reshape(expected.shape) - expected)
        typical, largest = mx.sqrt(mx.square(difference).mean()), difference.max()
        return bool((typical <= tolerance) & (largest <= LARGEST * tolerance))

    for head in reversed(calls):
        if calls.count(head) > 1:
            continue
        with gather_before_head(module, head, places):
            found = run()
        if not agrees(found):
            continue
        for stack in stacks[head]:
            whole = attrs.evolve(head, stack=stack)
            hidden: list[mx.array] = []
            with capture_hidden(module, head, places, hidden):
                run()
            with run_head_only(module, whole, hidden[0][None]):
                found = run()
            if agrees(found):
                return whole
        return head
    return None


def _watch(module: nn.Module, run: Callable[[], mx.array], full: mx.array) -> tuple[list[Head], dict[Head, list[str]]]:
    """Run a forward and record which heads are called, and which modules returned their inputs."""
    candidates = list(_candidates(module))
    inside = {name for head in candidates if not head.is_tied for name in (head.name,)}
    outputs: list[tuple[str, mx.array]] = []
    calls: list[Head] = []
    stacks: dict[Head, list[str]] = {}

    def watch(head: Head) -> Tap:
        def tap(run: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
            if hidden.ndim == full.ndim and hidden.shape[:2] == full.shape[:2]:
                calls.append(head)
                # The outermost module first: it ends last.
                stacks[head] = [name for name, output in reversed(outputs) if output is hidden]
            return run(hidden)

        return tap

    with ExitStack() as taps:
        for name, child in module.named_modules():
            if list(child.children()) and name and name not in inside:
                taps.enter_context(_noting(child, name, outputs))
        for head in candidates:
            taps.enter_context(tapped(module, head, watch(head)))
        run()
    return calls, stacks


@contextmanager
def _noting(module: nn.Module, name: str, outputs: list[tuple[str, mx.array]]) -> Iterator[None]:
    cls = type(module)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = cls.__call__(self, *args, **kwargs)
        outputs.append((name, result))
        return result

    try:
        module.__class__ = type(cls.__name__, (cls,), {"__call__": call})
        yield
    finally:
        module.__class__ = cls


def _candidates(module: nn.Module) -> Iterator[Head]:
    for name, child in module.named_modules():
        if hasattr(child, "as_linear"):
            yield Head(name, is_tied=True)
        elif name.rpartition(".")[2] in HEADS and not {"layers", "blocks"} & set(name.split(".")):
            yield Head(name, is_tied=False)
