"""Tiny random models of all families of mlx-vlm that read images and write text.

Every module of this folder with a `FAMILIES` of its own adds them, as in `vlora.models.families`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

import mlx.core as mx
import mlx.nn as nn

from vlora.models.backbone.embed import to_device

from .tiny import TinyFamily, build, examples

__all__ = ["FAMILIES", "TinyFamily", "build", "embed_row", "examples"]


def _families() -> Iterator[tuple[str, TinyFamily]]:
    for module in pkgutil.iter_modules(__path__):
        yield from getattr(importlib.import_module(f".{module.name}", __package__), "FAMILIES", {}).items()


FAMILIES: Mapping[str, TinyFamily] = dict(_families())


def embed_row(name: str, module: nn.Module, row: int = 1) -> mx.array:
    """Embed one row of a tiny family as mlx-vlm itself does."""
    example = examples(FAMILIES[name])[row]
    inputs = {key: to_device(value) for key, value in example.inputs.items()}
    embeds: mx.array = module.get_input_embeddings(mx.array(example.tokens)[None], **inputs).inputs_embeds
    return embeds
