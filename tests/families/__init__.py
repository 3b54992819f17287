"""Tiny random models of all families of mlx-vlm that read images and write text.

Every module of this folder with a `FAMILIES` of its own adds them, as in `vlora.models.families`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from .tiny import TinyFamily, build, examples

__all__ = ["FAMILIES", "TinyFamily", "build", "examples"]


def _families() -> Iterator[tuple[str, TinyFamily]]:
    for module in pkgutil.iter_modules(__path__):
        yield from getattr(importlib.import_module(f".{module.name}", __package__), "FAMILIES", {}).items()


FAMILIES: Mapping[str, TinyFamily] = dict(_families())
