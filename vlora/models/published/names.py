"""Under which names, and in which layout, a model's weights were published."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_vlm import utils as mlx_vlm_utils

from ...system.safetensors_header import read_header, read_metadata
from ..load.model_files import ModelFiles
from ..load.model_folder import blaming, list_weights
from ..load.weights import rename_parameters, turn_experts
from .sanitizing import Sanitizer
from .spellings import Spellings
from .tracing import Piece, Sanitize, trace

Shapes = Mapping[str, tuple[int, ...]]


@attrs.frozen(eq=False, kw_only=True)
class PublishedNames:
    """Where the parameters of a model lie in the tensors of its folder.

    Attributes:
        shapes: The folder's tensors.
        pieces: What each parameter is put together from, by its name in the model.
        is_converted: Whether mlx-vlm converted the folder: its names are the model's own, and say nothing of those that
            the model was published under.
    """

    shapes: Shapes
    pieces: Mapping[str, tuple[Piece, ...]]
    is_converted: bool

    @property
    def unread(self) -> frozenset[str]:
        """The tensors that no parameter is taken from: a head that is the embeddings' table, layers left out."""
        return frozenset(self.shapes) - {piece.name for pieces in self.pieces.values() for piece in pieces}


def read_published_names(files: ModelFiles, module: nn.Module) -> PublishedNames:
    """Find the parameters of a model in the tensors of its folder, by the headers of its files alone.

    Args:
        files: The model's folder, weights included.
        module: The model without adapters; its weights are not asked for, so they may only be promised.

    Raises:
        ModelError: A file is missing or broken, or the family's code cannot read these names.
    """
    paths = list_weights(files.path)
    shapes = {name: entry.shape for path in paths for name, entry in read_header(path).items()}
    own = {name for name, _ in tree_flatten(module.parameters())}
    if is_converted(paths, module):
        as_they_are = {name: (whole(name, shapes[name]),) for name in own}
        return PublishedNames(shapes=shapes, pieces=as_they_are, is_converted=True)
    sanitize = make_sanitizer(files, module)
    with blaming(f"cannot say how the weights of {str(files.path)!r} are named", files.path):
        pieces = trace(sanitize, shapes)
        if files.is_translated and not own <= set(pieces):
            pieces = trace(_older(sanitize, files), shapes)
    kept = {name: found for name, found in pieces.items() if name in own}
    return PublishedNames(shapes=shapes, pieces=kept, is_converted=False)


def is_converted(paths: Iterable[Path], module: nn.Module) -> bool:
    """Whether files of weights are in the layout that mlx-vlm's conversion gives to a model, and not as published."""
    paths = list(paths)
    names = {name for path in paths for name in read_header(path)}
    formats = {read_metadata(path).get("format") for path in paths}
    return formats != {"pt"} and all(name in names for name, _ in tree_flatten(module.parameters()))


def find_published_names(
    files: ModelFiles, module: nn.Module, layers: Iterable[str], is_known: Callable[[str], bool] = lambda _: False
) -> dict[str, tuple[Piece, ...]]:
    """Find the names that a converted folder's layers were published under.

    Args:
        files: The folder.
        module: The model without adapters.
        layers: Names of linear layers and tables, quantized or not.
        is_known: Whether a published name is known from elsewhere; such names are tried first.

    Returns:
        The pieces of each layer's weight, by the layer's name. Layers whose names are not found are left out.
    """
    modules = dict(module.named_modules())
    shapes = {name: value.shape for name, value in tree_flatten(module.parameters())}
    for name, layer in modules.items():
        if hasattr(layer, "bits") and "scales" in layer:
            # As it was before it was quantized.
            *others, width = layer.weight.shape
            shapes[f"{name}.weight"] = (*others, width * 32 // layer.bits)
    spellings = Spellings(make_sanitizer(files, module), _package(files), shapes, is_known)
    found = {layer: spellings.find(f"{layer}.weight") for layer in layers}
    return {layer: (whole(name, shapes[f"{layer}.weight"]),) for layer, name in found.items() if name is not None}


def make_sanitizer(files: ModelFiles, module: nn.Module) -> Sanitizer:
    """Make what mlx-vlm would do with the weights of a folder."""
    return Sanitizer(module, _package(files))


def whole(name: str, shape: tuple[int, ...]) -> Piece:
    """Describe a parameter that is a published tensor as it stands."""
    parts = tuple(slice(0, length) for length in shape)
    return Piece(name, parts, parts, tuple(range(len(shape))))


def _package(files: ModelFiles) -> Any:
    return mlx_vlm_utils.get_model_and_args(dict(files.config), model_path=Path(files.path))[0]


def _older(sanitize: Sanitize, files: ModelFiles) -> Sanitize:
    """Read names of transformers 5 as `load_translated` does where the family's classes know the older ones."""
    turn = turn_experts if files.model_type == "qwen3_vl_moe" else rename_parameters

    def renamed(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return sanitize(turn(weights, files.config))

    return renamed
