"""Models loaded and prepared: parts without a constructor are completed."""

import pytest
from mlx.utils import tree_flatten

from tests.families import FAMILIES, build
from vlora.models.load import loading


def test_parts_without_a_constructor_are_completed() -> None:
    """MiMo-V2's hearing forgets to say that it is a module."""
    module = build(FAMILIES["mimo_v2"])
    with pytest.raises(AttributeError):
        module.freeze()
    loading.complete_modules(module)
    module.freeze()
    assert not tree_flatten(module.trainable_parameters())
