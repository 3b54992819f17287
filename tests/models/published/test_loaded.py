"""Parameters found in the tensors of a folder, as mlx-vlm loads it."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import mlx.core as mx
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from vlora import models
from vlora.models.published.loaded import trace_loading
from vlora.recipe.schema import ModelSection


def test_pieces_make_the_parameters(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Read out of the folder's tensors they are what mlx-vlm loads; of other tensors nothing is said."""
    folder = Path(copytree(checkpoint("gemma3"), tmp_path / "model"))
    files = models.find_model(ModelSection(path=str(folder)))
    module, tensors = models.open_lazily(files), load_arrays(folder / "model.safetensors")
    found = trace_loading(files, module)
    for name, value in tree_flatten(module.parameters()):
        whole = mx.zeros_like(value)
        for piece in found[name]:
            whole[piece.target] = piece.read(tensors[piece.name]) + piece.offset
        assert mx.array_equal(whole, value), name
    mx.save_safetensors(str(folder / "model.safetensors"), {"other": mx.zeros((2, 2))})
    assert not trace_loading(files, module)
