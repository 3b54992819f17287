"""The identity of a loaded model: what its parameters are, how they are stored, and which weights they are."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...adapters.layers import Adapter
from ...adapters.names import EMBEDDINGS, HEADS
from ...ops.parameters import count_parameters
from ...output.base_identity import BaseIdentity
from ...system.digests import digest
from ...system.safetensors_header import Entry, HeaderError, read_header
from .model_files import ModelFiles
from .model_folder import list_weights

MOST_SAMPLED = 512
"""Arrays of a model of which bytes are read."""

SAMPLES, SAMPLE_BYTES = 4, 128
"""Places of an array that are read, and how much there."""

PACKED = ("scales", "biases")
"""What a quantized layer has beside its weight."""

VOCABULARY = "vocabulary"


def describe_base(module: nn.Module, files: ModelFiles, path: str) -> BaseIdentity:
    """Say which model this is; its weights are not read, but for samples of their files.

    Args:
        module: The model, without adapters.
        files: Where it comes from.
        path: As the recipe names it.
    """
    shapes = dict(_logical_shapes(module))
    lines = [f"{name} {shape}".encode() for name, shape in sorted(shapes.items())]
    n_params = count_parameters(module)
    return BaseIdentity(
        path=path,
        revision=files.commit,
        model_type=files.model_type,
        architecture=digest(lines),
        summary=f"{_round(n_params)} parameters in {len(shapes):,} arrays",
        precision=_describe_precision(module),
        weights=fingerprint_weights(files.path),
    )


def _logical_shapes(module: nn.Module) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """Yield names of parameters and their shapes, as they are where nothing is quantized.

    The number of words is left out: a table may be padded, and adapters bring tokens.
    """
    layers = dict(module.named_modules())
    n_words = {
        layer.weight.shape[0]
        for name, layer in layers.items()
        if name.rpartition(".")[2] in EMBEDDINGS and "weight" in layer and layer.weight.ndim == 2  # noqa: PLR2004
    }
    for name, value in tree_flatten(module.parameters()):
        owner, _, part = name.rpartition(".")
        layer = layers.get(owner)
        shape: tuple[int | str, ...] = tuple(value.shape)
        if layer is not None and "scales" in layer and hasattr(layer, "bits"):
            if part in PACKED:
                continue
            if part == "weight":
                shape = (*shape[:-1], shape[-1] * 32 // layer.bits)
        if shape and shape[0] in n_words and owner.rpartition(".")[2] in (*EMBEDDINGS, *HEADS):
            shape = (VOCABULARY, *shape[1:])
        yield name, shape


def _describe_precision(module: nn.Module) -> str:
    """Name how most weights are stored, and how many other ways there are."""
    stored = Counter[str]()
    packed: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, Adapter):
            continue
        if "scales" in layer and hasattr(layer, "bits"):
            packed[name] = f"{layer.bits} bits ({layer.mode}, groups of {layer.group_size})"
            stored[packed[name]] += layer.weight.size * 32 // layer.bits
    for name, value in tree_flatten(module.parameters()):
        if name.rpartition(".")[0] not in packed and mx.issubdtype(value.dtype, mx.floating):
            stored[str(value.dtype).removeprefix("mlx.core.")] += value.size
    if not stored:
        return "no weights"
    # Norms and towers that are not packed do not make a packed model a mixture.
    ways = [way for way, _ in stored.most_common() if way in packed.values()] or [stored.most_common(1)[0][0]]
    return ways[0] if len(ways) == 1 else f"{ways[0]} and {len(ways) - 1} other kinds"


def _round(count: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{count / unit:.2f}{name}"
    return str(count)


def fingerprint_weights(folder: Path) -> str | None:
    """Make a key of a folder's weights: all headers, and samples of the bytes, however they are divided into files.

    Returns:
        None where there are no files of weights, or one of them cannot be read.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    try:
        for path in list_weights(folder):
            found |= {name: (path, entry) for name, entry in read_header(path).items()}
        if not found:
            return None
        names = sorted(found)
        parts = [f"{name} {found[name][1].dtype} {found[name][1].shape}".encode() for name in names]
        every = -(-len(names) // MOST_SAMPLED)
        sampled = [found[name] for name in names[::every]]
        return digest([*parts, *_sample(sampled)])
    except (HeaderError, OSError):
        return None


def _sample(arrays: list[tuple[Path, Entry]]) -> Iterator[bytes]:
    """Yield bytes from several places of each array."""
    opened: dict[Path, int] = {}
    try:
        for path, entry in arrays:
            if path not in opened:
                opened[path] = os.open(path, os.O_RDONLY)
            room = max(0, entry.end - entry.begin - SAMPLE_BYTES)
            for place in range(SAMPLES):
                begin = entry.begin + room * place // (SAMPLES - 1)
                yield os.pread(opened[path], min(SAMPLE_BYTES, entry.end - begin), begin)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
