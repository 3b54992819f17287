"""The modules within a module, in the order in which they are held, and their arrays by name.

A trace lists a model's modules several times. `nn.Module.named_modules` makes a tree of every module's contents for
that, and `nn.Module.update` walks along two trees.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn


def named_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """List a module and all within it by qualified names, each before those within it; its own name is empty.

    What two modules hold stands there twice, as `nn.Module.named_modules` lists it.
    """
    found: list[tuple[str, nn.Module]] = []
    _collect(module, "", found)
    return found


def _collect(held: Any, name: str, found: list[tuple[str, nn.Module]]) -> None:
    if isinstance(held, nn.Module):
        found.append((name, held))
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        if isinstance(value, (dict, list)):
            _collect(value, f"{name}.{key}" if name else str(key), found)


def read_array(module: nn.Module, name: str) -> mx.array:
    """Find an array by its qualified name; faster than listing all of them, which every trace would do."""
    holder, key = _find(module, name)
    array: mx.array = holder[key]
    return array


def write_arrays(module: nn.Module, arrays: Mapping[str, mx.array]) -> None:
    """Put arrays in the places of those that have their qualified names; all of them have to be there."""
    for name, array in arrays.items():
        holder, key = _find(module, name)
        holder[key]
        holder[key] = array


def _find(module: nn.Module, name: str) -> tuple[Any, Any]:
    """Find what holds an array, and its key there."""
    holder: Any = module
    *path, last = name.split(".")
    for part in path:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    return holder, int(last) if isinstance(holder, list) else last
