"""What the configuration of an adapter promises, and its file lacks. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from ...errors import CheckpointError

STACKED = re.compile(r"(?P<stack>(?:.*?\.)?)(?P<number>\d+)\.(?P<kind>.+)")
"""The name of a layer in a stack: what stands before its number, the number, and what stands behind it."""


def unread_layers(module: nn.Module) -> set[str]:
    """Name the projections that nothing reads: layers that share the keys and values of others need none."""
    return {
        f"{name}.{part}"
        for name, child in module.named_modules()
        if getattr(child, "is_kv_shared_layer", False)
        for part in ("k_proj", "v_proj")
    }


def find_missing_layer(
    adapted: Collection[str], adaptable: Collection[str], listed: Sequence[str], n_last: int | None
) -> str | None:
    """Find a layer that a configuration promises and that is not adapted.

    mlx-lm adapts the layers that it lists, or those of all kinds, in the last of a stack. Without a list the kinds are
    those that the file has.

    Args:
        adapted: Layers that have factors.
        adaptable: Layers of the model that may have some, and are read.
        listed: Names, or ends of names.
        n_last: How many of a stack are adapted, counted from its end; all of them if None, 0 or less.

    Returns:
        The first of them in the model's order; None if there is none.
    """
    found = set(adapted)
    stacks: dict[str, dict[int, dict[str, str]]] = {}
    for name in adaptable:
        if match := STACKED.fullmatch(name):
            stacks.setdefault(match["stack"], {}).setdefault(int(match["number"]), {})[match["kind"]] = name
    for stack in stacks.values():
        kinds = {kind for layers in stack.values() for kind, name in layers.items() if name in found}
        # A stack without any is a tower's, or another part that was not adapted.
        for kind, name in _promised(stack, n_last) if kinds else ():
            if name not in found and (_is_listed(kind, listed) if listed else kind in kinds):
                return name
    return None


def _promised(stack: dict[int, dict[str, str]], n_last: int | None) -> Iterator[tuple[str, str]]:
    """Yield the kinds and names of the layers in the last of a stack."""
    numbers = sorted(stack)
    for number in numbers[-n_last:] if n_last is not None and n_last > 0 else numbers:
        yield from stack[number].items()


def _is_listed(kind: str, listed: Sequence[str]) -> bool:
    return any(f".{kind}".endswith(f".{end}") for end in listed)


def refuse_unfit(
    path: str,
    weights: Mapping[str, mx.array],
    current: Mapping[str, mx.array],
    layers: Sequence[str],
    tables: Sequence[str],
) -> None:
    """Refuse arrays that fit nowhere, and layers or tables of which one is not there.

    Raises:
        CheckpointError: The first of them.
    """
    wrong = [name for name, value in weights.items() if not _fits(value, current.get(name))]
    expected = [f"{name}.{part}" for name in layers for part in ("lora_a", "lora_b", "m")]
    expected += [f"{name}.weight" for name in tables]
    absent = [name for name in expected if name in current and name not in weights]
    if wrong or absent:
        msg = f"{path}: does not fit the model at {(wrong + absent)[0]}; was it trained on another model or rank?"
        raise CheckpointError(msg)


def _fits(value: mx.array, current: mx.array | None) -> bool:
    """Whether a saved array can replace a model's."""
    is_number = mx.issubdtype(value.dtype, mx.floating)
    return current is not None and is_number and current.shape == value.shape
