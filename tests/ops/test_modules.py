"""Modules within a module are found as MLX finds them, and arrays are read and written by the names that it gives."""

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from vlora.ops.modules import named_modules, read_array, write_arrays


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(11)]
        self.by_name = {"image": nn.Linear(2, 3), "text": [nn.Linear(2, 4), {"last": nn.Linear(2, 5)}]}
        self.shared = self.blocks[0]
        self.numbers = [1, 2, 3]
        self.scale = mx.array([1.0])


def test_modules_are_those_that_mlx_lists() -> None:
    """Every module has the name that MLX gives it, in lists and dictionaries too; those before come first."""
    module = _Layers()
    found = named_modules(module)

    assert {name: id(each) for name, each in found} == {name: id(each) for name, each in module.named_modules()}
    assert len(found) == len(module.named_modules())
    names = [name for name, _ in found]
    assert names[0] == ""
    assert names.index("blocks.2") < names.index("blocks.2.layers.0") < names.index("blocks.10.layers.1")


def test_arrays_are_those_that_mlx_names() -> None:
    """What is read is the array of that name, and what is written stands there alone."""
    module = _Layers()
    before = dict(tree_flatten(module.parameters()))
    assert all(read_array(module, name) is array for name, array in before.items())

    new = {
        name: mx.zeros_like(before[name]) for name in ("scale", "blocks.10.layers.0.weight", "by_name.text.1.last.bias")
    }
    write_arrays(module, new)
    after = dict(tree_flatten(module.parameters()))
    assert list(after) == list(before)
    assert all(after[name] is new.get(name, array) for name, array in before.items())


@pytest.mark.parametrize("name", ["scales", "blocks.11.layers.0.weight", "by_name.sound.weight"])
def test_a_name_that_nothing_has_is_an_error(name: str) -> None:
    """An array that a module lacks is not added to it."""
    with pytest.raises((KeyError, IndexError)):
        write_arrays(_Layers(), {name: mx.zeros(1)})
