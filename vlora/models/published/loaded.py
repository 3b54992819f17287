"""Where the parameters of a folder's model lie in the folder's own tensors, as mlx-vlm loads them."""

import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import ModelError
from ...system.safetensors_header import read_header
from ..foreign import foreign, name_failure
from ..load.model_files import ModelFiles
from ..load.model_folder import list_weights
from .names import make_sanitizer
from .tracing import Piece, trace


def trace_loading(files: ModelFiles, module: nn.Module) -> dict[str, tuple[Piece, ...]]:
    """Find the pieces of a model's parameters in the tensors of its folder; no weights are read.

    Loading runs the family's renaming on every folder, one that mlx-vlm has written included, and some permute what
    they are given whatever its names are.

    Args:
        files: The folder.
        module: Its model as mlx-vlm makes it, its weights only promised.

    Returns:
        As `trace`; nothing where the family's code does not take the tensors by themselves.
    """
    shapes = {name: entry.shape for path in list_weights(files.path) for name, entry in read_header(path).items()}
    own = {name for name, _ in tree_flatten(module.parameters())}
    try:
        with foreign(lambda error: ModelError(name_failure(error))):
            found = trace(make_sanitizer(files, module), shapes)
    except ModelError:
        return {}
    return {name: pieces for name, pieces in found.items() if name in own}
