"""Parts of one instance are replaced, and only while it runs."""

import mlx.core as mx
import pytest
from mlx import nn
from mlx_vlm.models import base
from mlx_vlm.models.qwen3_vl import language

from vlora.models.forward import overrides
from vlora.models.forward.overrides import (
    ATTENTION,
    attending,
    chain,
    model_files,
    override_attributes,
    override_call,
    replaced_functions,
)


class Doubling(nn.Module):
    """Gives its input twice."""

    factor = 2

    def __call__(self, x: float) -> float:
        """Double."""
        return x * self.factor


def test_one_instance_is_changed() -> None:
    """Others of its class are not, and it is as it was afterwards, also if it fails."""
    one, other = Doubling(), Doubling()
    with override_call(one, lambda x: -x):
        assert (one(3), other(3)) == (-3, 6)
        assert isinstance(one, Doubling)
    with override_attributes(one, factor=5):
        assert (one(3), other(3)) == (15, 6)
    for override in (override_call(one, lambda x: -x), override_attributes(one, factor=5)):
        with pytest.raises(ZeroDivisionError), override:
            one(1 / 0)

    assert (one(3), type(one), vars(one).keys()) == (6, Doubling, vars(Doubling()).keys())


def test_an_attribute_of_its_own_comes_back() -> None:
    """What an instance had before is not lost."""
    one = Doubling()
    object.__setattr__(one, "factor", 7)
    with override_attributes(one, factor=5):
        assert one(1) == 5

    assert one(1) == 7


def test_the_last_of_a_chain_holds() -> None:
    """Where two replace one part, and both are undone."""
    one = Doubling()
    corrections = [lambda model, value=value: override_attributes(model, factor=value) for value in (3, 4)]
    with chain(*corrections)(one):
        assert one(1) == 4

    assert one(1) == 2


def test_functions_of_mlx_come_back() -> None:
    """Also after an error."""
    argmax = mx.argmax
    with replaced_functions(argmax=lambda _: 3):
        assert mx.argmax(mx.zeros(2)) == 3
    with pytest.raises(ZeroDivisionError), replaced_functions(argmax=lambda _: 3):
        mx.argmax(mx.array(1 / 0))

    assert mx.argmax is argmax


def test_attention_is_replaced_in_the_files_of_the_layers() -> None:
    """Those of a model's own classes, and not where mlx-vlm defines it."""

    def attend(*_: object, **__: object) -> mx.array:
        return mx.array(0)

    layer = type("Layer", (nn.Module,), {"__module__": language.__name__})()
    own = language.scaled_dot_product_attention
    with attending(layer, attend):
        assert language.scaled_dot_product_attention is attend
        assert base.scaled_dot_product_attention is own

    assert language.scaled_dot_product_attention is own


def test_attention_is_replaced_under_layers_that_are_replaced_themselves() -> None:
    """The file is that of a layer's own class, and none of vlora's, where a set of both had no fixed order."""

    def attend(*_: object, **__: object) -> mx.array:
        return mx.array(0)

    layer = type("Layer", (nn.Module,), {"__module__": language.__name__})()
    own = language.scaled_dot_product_attention
    with override_call(layer, lambda x: x), attending(layer, attend):
        assert language.scaled_dot_product_attention is attend
        assert vars(overrides)[ATTENTION] is own


def test_files_come_in_the_order_of_the_layers() -> None:
    """Each once, whatever has been put in the place of layers."""
    model = nn.Sequential(
        *(type("Layer", (nn.Module,), {"__module__": file})() for file in (language.__name__, "json"))
    )
    expected = [file.__name__ for file in model_files(model)]
    with override_call(model.layers[0], lambda x: x):
        assert [file.__name__ for file in model_files(model)] == expected
    assert sorted(expected) == sorted([nn.Sequential.__module__, language.__name__, "json"])
