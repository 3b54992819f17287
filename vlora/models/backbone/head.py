"""The language model's head, run at given positions only.

The logits of a long row over a large vocabulary are the largest array of a training step, and most of them predict
nothing that is learned. The head is left where it is, and only sees the places that count: whatever the model does
behind it (softcaps, scales) still happens. Where it stands is found by watching one small forward, and believed only
if the logits at those positions are the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn

from ...adapters.names import HEADS
from ...facts import HeadUse
from ..forward.overrides import override_attributes, override_call

TOLERANCE = 0.02
"""Of the logits' spread: the root of the mean squared difference. Kernels of different shapes round differently in
bfloat16, and one logit of a hundred thousand may be off by several times that."""

LARGEST = 5
"""How many times the tolerance a single logit may be off."""

Tap = Callable[[Callable[[mx.array], mx.array], mx.array], mx.array]
"""(the head, its input) -> what the model gets for its output."""


@attrs.frozen
class Head:
    """Where a model turns hidden states into logits.

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
    """Say at which tokens a head runs, and whether in chunks."""
    if head is None:
        return HeadUse(extent="all")
    return HeadUse(extent="supervised" if head.stack is None else "chunks", module=head.name)


def sound_head(head: Head | None) -> Head:
    """Give a head that can be run apart from its layers.

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
    """Whether something is what `pack_head` may have written for a model."""
    if packed is None:
        return True
    if not isinstance(packed, dict) or packed.keys() != attrs.fields_dict(Head).keys():
        return False
    names = [name for name, _ in module.named_modules()]
    is_there = packed["name"] in names and (packed["stack"] is None or packed["stack"] in names)
    return is_there and isinstance(packed["is_tied"], bool)


@contextmanager
def tapped(module: nn.Module, head: Head, tap: Tap) -> Iterator[None]:
    """Put a function between the model and its head, in this one model."""
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


@contextmanager
def run_head_only(module: nn.Module, head: Head, hidden: mx.array) -> Iterator[None]:
    """Let the layers before the head give these hidden states instead of running.

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
    """Put the head's input at some places into a list, f[N, D], and let the head and what is behind it not run."""

    def tap(_: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
        into.append(hidden.reshape(-1, hidden.shape[-1])[places])
        raise _Taken

    try:
        with tapped(module, head, tap):
            yield
    except _Taken:
        pass


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
    """Run a forward and note which heads are called, and which modules gave what they were called with."""
    candidates = list(_candidates(module))
    inside = {name for head in candidates if not head.is_tied for name in (head.name,)}
    outputs: list[tuple[str, mx.array]] = []
    calls: list[Head] = []
    stacks: dict[Head, list[str]] = {}

    def watch(head: Head) -> Tap:
        def tap(run: Callable[[mx.array], mx.array], hidden: mx.array) -> mx.array:
            if hidden.ndim == full.ndim and hidden.shape[:2] == full.shape[:2]:
                calls.append(head)
                # The outermost first: it ends last.
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
