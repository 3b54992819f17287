"""PEFT's arrays become the model's: joined and divided layers, ranks and scales of their own, older names."""

from typing import Any

import numpy as np
import pytest

from tests.models.published.test_peft_layout import stack_links
from vlora.errors import CheckpointError
from vlora.models.published.links import Link
from vlora.models.published.peft_layout import Factors, lay_out
from vlora.models.published.peft_reading import from_peft
from vlora.models.published.places import Places
from vlora.models.published.transformers_names import find_transformers_names

GENERATOR = np.random.default_rng(0)
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return GENERATOR.standard_normal(shape, dtype=np.float32)


def whole(*sizes: int) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in sizes)


def link(own: str, other: str, rows: int = 3, start: int = 0, total: int = 3, own_start: int = 0) -> Link:
    own_box = (slice(own_start, own_start + rows), slice(0, 5))
    return Link(
        f"{own}.weight", own_box, f"{other}.weight", (slice(start, start + rows), slice(0, 5)), (0, 1), (total, 5)
    )


def places(*links: Link, model_type: str = "", tied: dict[str, str] | None = None) -> Places:
    found: dict[str, tuple[Link, ...]] = {}
    for one in links:
        found[one.own] = (*found.get(one.own, ()), one)
    names = find_transformers_names({"model_type": model_type})
    return Places(links=found, shapes={}, tied=tied or {}, names=names, is_converted=False)


def factors(module: str, outputs: int = 3, rank: int = 2, before: str = "base_model.model.") -> dict[str, Any]:
    return {
        f"{before}{module}.lora_A.weight": normal(rank, 5),
        f"{before}{module}.lora_B.weight": normal(outputs, rank),
    }


def update_of(arrays: dict[str, Any], config: dict[str, Any], layer: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Give what is added to a layer's weight."""
    product = arrays[f"{layer}.lora_a"] @ arrays[f"{layer}.lora_b"]
    return (config["lora_parameters"]["scale"] * product).T


def product(arrays: dict[str, Any], module: str) -> np.ndarray[Any, np.dtype[Any]]:
    return arrays[f"base_model.model.{module}.lora_B.weight"] @ arrays[f"base_model.model.{module}.lora_A.weight"]


def test_ranks_and_scales_of_their_own_become_one() -> None:
    """The update of every layer stays; what is filled up is 0 in B and not in A."""
    arrays = {**factors("a", rank=2), **factors("b", rank=4), **factors("c", rank=2)}
    config = {**CONFIG, "rank_pattern": {"b": 4}, "alpha_pattern": {"b": 6}, "lora_dropout": 0.1}
    found, own = from_peft(arrays, config, places(link("x", "a"), link("y", "b"), link("z", "c")), "file")
    assert own["lora_parameters"] == {"rank": 4, "scale": 2.0, "dropout": 0.1, "keys": ["x", "y", "z"]}
    np.testing.assert_allclose(update_of(found, own, "x"), 2 * product(arrays, "a"), rtol=1e-5)
    np.testing.assert_allclose(update_of(found, own, "y"), 1.5 * product(arrays, "b"), rtol=1e-5)
    assert not found["x.lora_b"][2:].any()
    assert found["x.lora_a"][:, 2:].all()


def test_rslora_divides_by_the_root() -> None:
    """The scale is alpha over the root of the rank."""
    _, own = from_peft(factors("a"), {**CONFIG, "use_rslora": True}, places(link("x", "a")), "file")
    assert own["lora_parameters"]["scale"] == pytest.approx(4 / 2**0.5)


@pytest.mark.parametrize("is_joined", [True, False])
def test_what_was_written_is_read_back_to_the_bit(is_joined: bool) -> None:
    """Layers that are one in transformers, and one that is several there."""
    if is_joined:
        given = {"q": Factors(a=normal(5, 2), b=normal(2, 3)), "v": Factors(a=normal(5, 2), b=normal(2, 3))}
        found = places(link("q", "qv", total=6), link("v", "qv", start=3, total=6))
    else:
        given = {"gu": Factors(a=normal(5, 2), b=normal(2, 6))}
        found = places(link("gu", "g"), link("gu", "u", own_start=3))
    laid = lay_out({name: found.links[f"{name}.weight"] for name in given}, given)
    config = {**CONFIG, "r": next(iter(laid.modules.values()))}
    arrays, _ = from_peft(laid.arrays, config, found, "file")
    for name, expected in given.items():
        np.testing.assert_array_equal(arrays[f"{name}.lora_a"], expected.a)
        np.testing.assert_array_equal(arrays[f"{name}.lora_b"], expected.b)


def test_parts_of_one_layer_share_its_factor() -> None:
    """Where a head's rows lie in another order, a layer is many parts; each of transformers' layers counts once."""
    even, odd = (slice(start, start + 3, 2) for start in (0, 1))
    columns = slice(0, 5)
    found = places(
        Link("qk.weight", (even, columns), "q.weight", (slice(0, 2), columns), (0, 1), (4, 5)),
        Link("qk.weight", (odd, columns), "q.weight", (slice(2, 4), columns), (0, 1), (4, 5)),
        link("qk", "k", rows=4, total=4, own_start=4),
    )
    theirs = factors("q", outputs=4) | factors("k", outputs=4)
    arrays, config = from_peft(theirs, CONFIG, found, "x")
    assert config["lora_parameters"]["rank"] == 2 * 2
    update = update_of(arrays, config, "qk")
    np.testing.assert_allclose(update[[0, 2, 1, 3]], 2 * product(theirs, "q"), rtol=1e-6)
    np.testing.assert_allclose(update[4:], 2 * product(theirs, "k"), rtol=1e-6)
    own = Factors(a=arrays["qk.lora_a"], b=arrays["qk.lora_b"])
    back, _ = from_peft(lay_out({"qk": found.links["qk.weight"]}, {"qk": own}).arrays, CONFIG | {"r": 4}, found, "x")
    assert all(np.array_equal(value, arrays[name]) for name, value in back.items())


def test_a_joint_layer_of_another_program_is_divided() -> None:
    """Its one factor A goes to each of the model's layers."""
    arrays = factors("qv", outputs=6)
    found, own = from_peft(arrays, CONFIG, places(link("q", "qv", total=6), link("v", "qv", start=3, total=6)), "file")
    np.testing.assert_allclose(update_of(found, own, "q"), 2 * product(arrays, "qv")[:3], rtol=1e-5)
    np.testing.assert_allclose(update_of(found, own, "v"), 2 * product(arrays, "qv")[3:], rtol=1e-5)


def test_names_of_older_transformers_are_known() -> None:
    """Qwen2-VL's modules had other names before version 4.52, and adapters of that time have them."""
    one = link("x", "model.language_model.layers.0.mlp.up_proj")
    for module in ("model.language_model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"):
        found, _ = from_peft(factors(module), CONFIG, places(one, model_type="qwen2_vl"), "file")
        assert set(found) == {"x.lora_a", "x.lora_b"}


def test_a_tied_table_may_be_named_twice() -> None:
    """Both copies have to be the same."""
    table = link("e", "embed")
    value = normal(3, 5)
    found = places(link("x", "a"), table, tied={"lm_head.weight": "embed.weight"})
    arrays = {**factors("a"), "base_model.model.embed.weight": value, "base_model.model.lm_head.weight": value}
    read, own = from_peft(arrays, CONFIG, found, "file")
    assert own["trained_tables"] == ["e"]
    np.testing.assert_array_equal(read["e.weight"], value)
    arrays["base_model.model.lm_head.weight"] = value + 1
    with pytest.raises(CheckpointError, match=r"differs from base_model\.model\.embed\.weight"):
        from_peft(arrays, CONFIG, found, "file")


@pytest.mark.parametrize(
    ("arrays", "config", "told"),
    [
        (factors("a"), {"peft_type": "IA3"}, "type 'IA3'; expected 'LORA'"),
        (factors("a"), {"bias": "all"}, "bias: found 'all', which is not read"),
        (factors("a"), {"init_lora_weights": "pissa_niter_4"}, "its base is not the published one"),
        (factors("a"), {"r": 0}, "r: found 0, expected a number above 0"),
        (factors("a"), {"lora_alpha": float("nan")}, "lora_alpha: found nan, expected a number above 0"),
        (factors("a"), {"lora_alpha": float("inf")}, "lora_alpha: found inf, expected a number above 0"),
        (factors("a"), {"rank_pattern": {"(": 2}}, "rank_pattern: found .*, which is no pattern"),
        (factors("a"), {"rank_pattern": {"a": "2"}}, "expected numbers above 0 by names of layers"),
        (factors("a"), {"alpha_pattern": ["a"]}, "expected numbers above 0 by names of layers"),
        (factors("a"), {"r": 8}, "was it trained on another model or rank"),
        (factors("a", outputs=4), {}, "was it trained on another model or rank"),
        (factors("b"), {}, "has base_model.model.b.lora_A.weight, for which the model has no layer"),
        ({"base_model.model.a.lora_A.weight": normal(2, 5)}, {}, "without its other factor"),
        (factors("a"), {"use_dora": True}, "use_dora is True"),
        ({**factors("a"), "base_model.model.a.lora_magnitude_vector": normal(3)}, {}, "use_dora is False"),
        ({**factors("a"), "base_model.model.e.lora_embedding_A": normal(2, 3)}, {}, "no part of a LoRA on layers"),
        ({**factors("a"), "base_model.model.a.weight": normal(2, 5)}, {}, "is \\(2, 5\\), expected \\(3, 5\\)"),
        ({**factors("a"), **factors("a", before="")}, {}, "twice, under two spellings"),
        ({"base_model.model.a.weight": normal(3, 5)}, {}, "has no layer's LoRA"),
    ],
)
def test_what_fits_nowhere_is_named(arrays: dict[str, Any], config: dict[str, Any], told: str) -> None:
    """One sentence, which begins with the file."""
    with pytest.raises(CheckpointError, match=f"^file: .*{told}"):
        from_peft(arrays, {**CONFIG, **config}, places(link("x", "a")), "file")


def test_experts_that_were_published_one_by_one_are_read_back_to_the_bit() -> None:
    """Each expert of the model's stack has a link of its own to transformers' stack."""
    links = tuple(
        Link(
            f"{own}.weight",
            (slice(expert, expert + 1), slice(0, 3), slice(0, 5)),
            f"m.experts.{other}",
            (slice(expert, expert + 1), slice(start, start + 3), slice(0, 5)),
            (0, 1),
            (2, total, 5),
        )
        for own, other, start, total in (("gate", "gate_up", 0, 6), ("up", "gate_up", 3, 6), ("down", "down", 0, 3))
        for expert in (0, 1)
    )
    found = places(*links)
    factors = {name: Factors(a=normal(2, 2, 5), b=normal(2, 3, 2)) for name in ("gate", "up", "down")}
    laid = lay_out({name: found.links[f"{name}.weight"] for name in factors}, factors)
    config = {**CONFIG, "target_parameters": ["m.experts.gate_up", "m.experts.down"]}
    ranks = {"rank_pattern": {"m.experts.gate_up": 4}, "alpha_pattern": {"m.experts.gate_up": 8}}
    arrays, _ = from_peft(laid.arrays, {**config, **ranks}, found, "file")
    for name, one in factors.items():
        np.testing.assert_array_equal(arrays[f"{name}.lora_a"], one.a)
        np.testing.assert_array_equal(arrays[f"{name}.lora_b"], one.b)


def test_a_stack_whose_matrices_multiply_from_the_right_is_read_back_to_the_bit() -> None:
    """PEFT takes the axis of its inputs for the outputs, and has the two factors the other way round."""
    own, other = (whole(2, 3, 5), whole(2, 5, 3))
    found = places(Link("down.weight", own, "m.experts.down", other, (0, 2, 1), (2, 5, 3)))
    one = Factors(a=normal(2, 2, 5), b=normal(2, 3, 2))
    laid = lay_out({"down": found.links["down.weight"]}, {"down": one})
    assert laid.arrays["base_model.model.m.experts.lora_A.weight"].shape == (4, 3)
    arrays, _ = from_peft(laid.arrays, {**CONFIG, "target_parameters": ["m.experts.down"]}, found, "file")
    np.testing.assert_array_equal(arrays["down.lora_a"], one.a)
    np.testing.assert_array_equal(arrays["down.lora_b"], one.b)


def test_a_matrix_that_is_named_as_a_parameter_has_the_rank_of_its_pattern() -> None:
    """A layer beside experts is named so, because PEFT would take it for one of them."""
    config = {**CONFIG, "target_parameters": ["a.weight"], "rank_pattern": {"a.weight": 4}}
    found, own = from_peft(factors("a", rank=4), config, places(link("x", "a")), "file")
    assert own["lora_parameters"]["rank"] == 4
    assert found["x.lora_a"].shape == (5, 4)


@pytest.mark.parametrize("is_in_outputs", [True, False])
def test_experts_that_lie_side_by_side_in_a_matrix_are_read_from_a_stack(is_in_outputs: bool) -> None:
    """PEFT's own factors, which differ from expert to expert, and those that were written here, to the bit."""
    links = stack_links(is_in_outputs=is_in_outputs)
    config = {**CONFIG, "target_parameters": ["y.gate_proj"]}
    a, b = normal(2, 2, 5), normal(3, 2, 2)
    arrays = {
        "base_model.model.y.lora_A.weight": a.reshape(4, 5),
        "base_model.model.y.lora_B.weight": b.reshape(3, 4),
    }
    found, own = from_peft(arrays, config, places(*links), "file")
    update = update_of(found, own, "x")
    for expert, one in enumerate(links):
        np.testing.assert_allclose(update[one.own_box], 2 * b[..., expert] @ a[expert], rtol=1e-5)

    factors = Factors(a=normal(5 if is_in_outputs else 10, 2), b=normal(2, 6 if is_in_outputs else 3))
    laid = lay_out({"x": links}, {"x": factors})
    found, _ = from_peft(laid.arrays, config, places(*links), "file")
    np.testing.assert_array_equal(found["x.lora_a"], factors.a)
    np.testing.assert_array_equal(found["x.lora_b"], factors.b)
