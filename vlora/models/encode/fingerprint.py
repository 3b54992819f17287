"""What decides the features of an image besides the image: the weights, the preparation, the code.

An image's own key stands for its content and its preparation; the folder that features are kept in stands for the
model. Rather one key too many than one too few: a key that changes without need costs one run of the tower.
"""

import enum
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from PIL import features
from transformers import PreTrainedTokenizerBase

from ...features.cache import digest_arrays
from ...features.shard_format import array_bytes
from ...memory.limits import describe_device
from ...recipe.schema import DataSection
from ...system.digests import digest
from ...system.package import source_files

PACKAGES = ("mlx", "mlx-vlm", "transformers", "numpy", "pillow", "torch", "torchvision", "opencv-python")
"""Whose versions decide how images are prepared and what the tower makes of them."""

CODECS = ("jpg", "jpg_2000", "libtiff", "zlib", "webp", "avif", "libjpeg_turbo")
"""Libraries that decode images, which Pillow is built with."""

SHARED = {"mlx.nn": "**/*.py", "mlx_vlm.models": "*.py", "transformers": "image_*.py"}
"""Modules, and files below them, that what makes features of any family calls. Versions do not tell of a package that
was changed where it is installed."""

SETTINGS = ("MLX_ENABLE_TF32",)
"""Environment variables that decide how MLX rounds."""

FOLLOWED = ("mlx_vlm.models.", "transformers_modules.")
"""Modules of families, which take functions and classes of one another."""

IN_A_FAMILY = 3
"""Dots in the names of modules of one family: `mlx_vlm.models.qwen3_vl.vision`. What lies beside others is one of many.
"""

TOKENIZERS = ("tokenizers", "sentencepiece", "tiktoken")
"""Packages whose objects only make tokens of texts."""

UNSAID = ("__weakref__", "__dict__")
"""Slots that hold no setting."""


def preparation_fingerprint(processor: Any, data: DataSection, max_pixels: int | None) -> str:
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
    return digest([_code(), _sources(_classes_of(processor)), json.dumps(described, sort_keys=True).encode()])


def features_fingerprint(module: nn.Module, weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> str:
    """Make a key of all that decides features besides images: weights, configuration, layers, code, device.

    Args:
        module: The model.
        weights: Those that make the features, by name.
        config: The model's configuration.
    """
    device = describe_device()
    owners = {name.rpartition(".")[0] for name in weights}
    layers = {name: [_name(type(part)), repr(part)] for name, part in module.named_modules() if name in owners}
    classes = {type(part) for _, part in module.named_modules()}
    settings = {name: os.environ.get(name) for name in SETTINGS}
    described = json.dumps([config, device.kind, device.name, layers, settings], sort_keys=True, default=str)
    return digest([_code(), _sources(classes), described.encode(), digest_arrays(weights).encode()])


@functools.cache
def _code() -> bytes:
    """The code that features of every family go through: versions, this package's own source, what is shared."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(name)
    versions += [f"{name} {features.version(name)}" for name in CODECS if features.check(name)]
    files = source_files()
    for package, pattern in SHARED.items():
        # Not imported: only its place is asked for.
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found is not None else ():
            files += sorted(Path(place).glob(pattern))
    return digest([*(version.encode() for version in versions), *_read_all(files)]).encode()


def _sources(classes: Iterable[type]) -> bytes:
    """The files that classes and those above them are written in, those that these take from, and those beside them."""
    waiting = {above.__module__ for cls in classes for above in cls.__mro__}
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        names.add(name)
        if name.startswith(FOLLOWED):
            values = vars(sys.modules[name]).values() if name in sys.modules else ()
            used = {getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in values}
            waiting |= {one for one in used if isinstance(one, str) and one.startswith(FOLLOWED)} - names
    modules = {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in names}
    places = {Path(file).parent for name, file in modules.items() if file and name.count(".") >= IN_A_FAMILY}
    files = {Path(file) for file in modules.values() if file.endswith(".py")}
    files |= {file for place in places for file in place.glob("*.py")}
    return digest(_read_all(sorted(files))).encode()


def _read_all(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield names and contents of files of source; their places do not count."""
    for file in files:
        yield file.name.encode()
        yield file.read_bytes()


def _classes_of(processor: Any) -> set[type]:
    """Find the classes of a processor and of its parts."""
    found: dict[int, Any] = {}
    waiting = [processor]
    while waiting:
        value = waiting.pop()
        if id(value) in found or _describe_leaf(value) is not None or isinstance(value, (str, int, float, type(None))):
            continue
        found[id(value)] = value
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        else:
            waiting += _attributes(value).values()
    return {type(value) for value in found.values()}


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
