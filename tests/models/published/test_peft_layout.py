"""Factors become PEFT's: the updates of all of transformers' weights are those of the model's."""

import numpy as np
import pytest

from vlora.errors import ModelError
from vlora.models.published.links import Link
from vlora.models.published.peft_layout import BEFORE, Factors, PeftArrays, lay_out

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape, dtype=np.float32)


def whole(*sizes: int) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in sizes)


def update_of(laid: PeftArrays, module: str) -> np.ndarray:
    return laid.arrays[f"{BEFORE}{module}.lora_B.weight"] @ laid.arrays[f"{BEFORE}{module}.lora_A.weight"]


def test_a_layer_that_is_one_in_transformers() -> None:
    """Both factors are transposed, DoRA's lengths stay."""
    factors = Factors(a=normal(5, 2), b=normal(2, 4), m=normal(4))
    laid = lay_out({"x": (Link("x.weight", whole(4, 5), "y.weight", whole(4, 5), (0, 1), (4, 5)),)}, {"x": factors})
    np.testing.assert_allclose(update_of(laid, "y"), (factors.a @ factors.b).T, rtol=1e-6)
    np.testing.assert_array_equal(laid.arrays[f"{BEFORE}y.lora_magnitude_vector"], factors.m)
    assert laid.modules == {"y": 2}


def test_a_layer_that_is_several_in_transformers_repeats_a_and_splits_b() -> None:
    """Each of them gets its rows."""
    factors = Factors(a=normal(5, 2), b=normal(2, 6))
    links = tuple(
        Link("x.weight", (slice(start, start + 3), slice(0, 5)), f"y{start}.weight", whole(3, 5), (0, 1), (3, 5))
        for start in (0, 3)
    )
    laid = lay_out({"x": links}, {"x": factors})
    update = (factors.a @ factors.b).T
    np.testing.assert_allclose(update_of(laid, "y0"), update[:3], rtol=1e-6)
    np.testing.assert_allclose(update_of(laid, "y3"), update[3:], rtol=1e-6)


def test_layers_that_are_one_in_transformers_are_joined() -> None:
    """Ranks add up, and rows of a layer that has no adapter stay as they are."""
    factors = {name: Factors(a=normal(5, 2), b=normal(2, 3)) for name in ("q", "v")}
    links = {
        name: (Link(f"{name}.weight", whole(3, 5), "qkv.weight", (slice(row, row + 3), slice(0, 5)), (0, 1), (9, 5)),)
        for name, row in (("q", 0), ("v", 6))
    }
    laid = lay_out(links, factors)
    update = update_of(laid, "qkv")
    np.testing.assert_allclose(update[:3], (factors["q"].a @ factors["q"].b).T, rtol=1e-5)
    np.testing.assert_array_equal(update[3:6], 0)
    np.testing.assert_allclose(update[6:], (factors["v"].a @ factors["v"].b).T, rtol=1e-5)
    assert laid.modules == {"qkv": 4}
    with pytest.raises(ModelError, match="other parts have no adapter of DoRA"):
        lay_out(links, {name: Factors(a=found.a, b=found.b, m=normal(3)) for name, found in factors.items()})


@pytest.mark.parametrize("is_turned", [False, True])
def test_experts_are_nested(is_turned: bool) -> None:
    """Gate and up are one stack of transformers', the down projection another, which PEFT wraps around the first.

    What is added to a stack has the stack's own axes.
    """
    experts, width, inner, rank = 3, 4, 5, 2
    factors = {
        "gate": Factors(a=normal(experts, rank, width), b=normal(experts, inner, rank)),
        "up": Factors(a=normal(experts, rank, width), b=normal(experts, inner, rank)),
        "down": Factors(a=normal(experts, rank, inner), b=normal(experts, width, rank)),
    }
    turn = (0, 2, 1) if is_turned else (0, 1, 2)
    shape = (experts, 2 * inner, width)

    def link(name: str, row: int) -> tuple[Link, ...]:
        other, own = (slice(0, experts), slice(row, row + inner), slice(0, width)), whole(experts, inner, width)
        box, size = tuple(other[axis] for axis in turn), tuple(shape[axis] for axis in turn)
        return (Link(f"{name}.weight", own, "mlp.experts.gate_up_proj", box, turn, size),)

    box = whole(experts, width, inner)
    links = {"gate": link("gate", 0), "up": link("up", inner)}
    links["down"] = (Link("down.weight", box, "mlp.experts.down_proj", box, (0, 1, 2), (experts, width, inner)),)
    laid = lay_out(links, factors)
    assert laid.parameters == {"mlp.experts.gate_up_proj": 2 * rank, "mlp.experts.down_proj": rank}
    for module, names in (("mlp.experts.base_layer", ("gate", "up")), ("mlp.experts", ("down",))):
        a = laid.arrays[f"{BEFORE}{module}.lora_A.weight"]
        b = laid.arrays[f"{BEFORE}{module}.lora_B.weight"]
        # As PEFT reads them (tuners/lora/layer.py, ParamWrapper.get_delta_weight).
        found = np.einsum("o r e, e r i -> e o i", b.reshape(len(b), -1, experts), a.reshape(experts, -1, a.shape[-1]))
        expected = np.concatenate([factors[name].b @ factors[name].a for name in names], axis=1)
        if is_turned and "gate" in names:
            expected = expected.swapaxes(1, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_no_matrix_in_transformers_is_refused() -> None:
    """The sentence names the layer and what to do."""
    factors = Factors(a=normal(12, 2), b=normal(2, 4))
    link = Link("x.weight", whole(4, 12), "conv.weight", whole(4, 3, 2, 2), (0, 1, 2, 3), (4, 3, 2, 2))
    with pytest.raises(ModelError, match=r"^x is conv.weight in transformers, no linear layer.*vlora fuse"):
        lay_out({"x": (link,)}, {"x": factors})


def stack_links(*, is_in_outputs: bool) -> tuple[Link, ...]:
    """Two experts of 3 outputs and 5 inputs, side by side in one matrix, and a stack in transformers."""
    links = []
    for expert in (0, 1):
        box = (slice(0, 3), slice(5 * expert, 5 * expert + 5))
        if is_in_outputs:
            box = (slice(3 * expert, 3 * expert + 3), slice(0, 5))
        other_box = (slice(expert, expert + 1), slice(0, 3), slice(0, 5))
        links.append(Link("x.weight", box, "y.gate_proj", other_box, (0, 1), (2, 3, 5)))
    return tuple(links)


@pytest.mark.parametrize("is_in_outputs", [True, False])
def test_experts_side_by_side_become_a_stack(is_in_outputs: bool) -> None:
    """Each has its part of the update; PEFT has the ranks of an expert together in B, and apart in A."""
    factors = Factors(a=normal(5 if is_in_outputs else 10, 2), b=normal(2, 6 if is_in_outputs else 3))
    links = stack_links(is_in_outputs=is_in_outputs)
    laid = lay_out({"x": links}, {"x": factors})
    a = laid.arrays[f"{BEFORE}y.lora_A.weight"].reshape(2, 2, 5)
    b = laid.arrays[f"{BEFORE}y.lora_B.weight"].reshape(3, 2, 2)
    update = (factors.a @ factors.b).T
    for expert, one in enumerate(links):
        np.testing.assert_allclose(b[..., expert] @ a[expert], update[one.own_box], rtol=1e-5)
    assert laid.parameters == {"y.gate_proj": 2}
    with pytest.raises(ModelError, match="PEFT takes no DoRA"):
        lay_out({"x": links}, {"x": Factors(a=factors.a, b=factors.b, m=normal(3))})
