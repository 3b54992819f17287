"""Tiny random models of all families of mlx-vlm that read images and write text."""

from collections.abc import Mapping

from . import classics
from .tiny import TinyFamily, build, examples

__all__ = ["FAMILIES", "TinyFamily", "build", "examples"]

FAMILIES: Mapping[str, TinyFamily] = {**classics.FAMILIES}
