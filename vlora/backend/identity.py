"""What decides the features of an image besides the image: the weights, the preparation, the code.

An image's own key stands for its content and its preparation; the folder that features are kept in stands for the
model. Rather one key too many than one too few: a key that changes without need costs one run of the tower.
"""

import enum
import functools
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import mlx.core as mx
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..recipe import DataSection
from .features import digest, digest_arrays
from .shards import array_bytes

PACKAGES = ("mlx", "mlx-vlm", "transformers", "numpy", "pillow")
"""Whose versions decide how images are prepared and what the tower makes of them."""

TOKENIZERS = ("tokenizers", "sentencepiece", "tiktoken")
"""Packages whose objects only make tokens of texts."""

UNSAID = ("__weakref__", "__dict__")
"""Slots that hold no setting."""


def preparation_digest(processor: Any, data: DataSection, max_pixels: int | None) -> str:
    """Make a key of all that decides what an image becomes before the tower.

    Args:
        processor: The processor, its settings included, whatever they are called.
        data: The recipe's section.
        max_pixels: What images are scaled down to before the processor.
    """
    described = {
        "processor": _describe(processor, frozenset()),
        "shape": data.image_resize_shape,
        "max_pixels": max_pixels,
    }
    return digest([_code(), json.dumps(described, sort_keys=True).encode()])


def features_digest(weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> str:
    """Make a key of all that decides features besides images: weights, configuration, code, kind of device.

    Args:
        weights: Those that make the features, by name.
        config: The model's configuration.
    """
    described = json.dumps([config, str(mx.default_device().type)], sort_keys=True, default=str)
    return digest([_code(), described.encode(), digest_arrays(weights).encode()])


@functools.cache
def _code() -> bytes:
    """The code that features go through: versions, and this package's own source, corrections of families included."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(name)
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return digest([*(version.encode() for version in versions), *(file.read_bytes() for file in sources)]).encode()


def _describe(value: Any, above: frozenset[int]) -> Any:
    """Describe a processor, or a part of one, in JSON: classes and settings, no addresses."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    leaf = _describe_leaf(value)
    if leaf is not None or id(value) in above:
        return leaf or _name(type(value))
    above |= {id(value)}
    if isinstance(value, Mapping):
        return {str(key): _describe(item, above) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item, above) for item in value]
    if attributes := _attributes(value):
        return [_name(type(value)), _describe(attributes, above)]
    return [_name(type(value)), re.sub(" at 0x[0-9a-f]+", "", repr(value))]


def _describe_leaf(value: Any) -> str | None:
    """Describe what has no parts that matter: arrays, functions, classes, tokenizers; None for anything else."""
    if isinstance(value, (bytes, bytearray)):
        return digest([bytes(value)])
    if isinstance(value, (np.ndarray, mx.array)):
        return f"{value.dtype} {value.shape} {digest([array_bytes(value)])}"
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(str, value)))
    if isinstance(value, (type, FunctionType, MethodType)):
        return _name(value)
    if isinstance(value, PreTrainedTokenizerBase) or type(value).__module__.startswith(TOKENIZERS):
        # What a text becomes shows in a row's tokens.
        return _name(type(value))
    return str(value) if isinstance(value, enum.Enum) else None


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    slots = [name for cls in type(value).__mro__ for name in _listed(getattr(cls, "__slots__", ()))]
    kept = {name: getattr(value, name) for name in slots if name not in UNSAID and hasattr(value, name)}
    return {**kept, **getattr(value, "__dict__", {})}


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
