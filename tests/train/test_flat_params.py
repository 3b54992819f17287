"""Parameters updated as one: laid together and taken apart again."""

import io
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora import make_optimizer
from vlora.recipe.schema import OptimSection
from vlora.train.flat_params import FLAT, MOST_PARTS, PACKED_MULTIPLE, PACKED_SIZE, FlatParams

RATE = 1e-2

shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=6)


@given(shapes=shapes)
def test_unpacking_undoes_packing(shapes: list[tuple[int, int]]) -> None:
    """Whatever the shapes; a large parameter keeps an array of its own, and one of an odd size."""
    params = {
        f"layer.{place}": mx.random.normal((rows, PACKED_MULTIPLE * width))
        for place, (rows, width) in enumerate(shapes)
    }
    params |= {"large": mx.zeros(PACKED_SIZE), "odd": mx.ones(PACKED_MULTIPLE + 1)}
    packing = FlatParams.of(params, make_optimizer(OptimSection(name="adamw")))
    packed = packing.pack(params)

    assert set(packed) == {FLAT, "large", "odd"}
    assert all(mx.array_equal(value, params[name]) for name, value in packing.unpack(packed).items())


def test_packed_parameters_are_cast_together() -> None:
    """One cast for each type; what is not packed is left to others."""
    params = {name: mx.random.normal((2, PACKED_MULTIPLE)) for name in "abc"} | {"large": mx.zeros(PACKED_SIZE)}
    packing = FlatParams.of(params, make_optimizer(OptimSection(name="adamw")))
    operations: list[str] = []

    def unpack(**tree: mx.array) -> dict[str, mx.array]:
        return packing.unpack(tree, {"a": mx.bfloat16, "b": mx.bfloat16, "large": mx.bfloat16})

    packed: dict[str, Any] = packing.pack(params)
    found = unpack(**packed)
    mx.export_function(
        lambda event: operations.append(str(event.get("name"))), lambda **tree: tuple(unpack(**tree).values()), **packed
    )

    assert all(found[name].dtype == mx.bfloat16 for name in "ab")
    assert found["c"].dtype == found["large"].dtype == mx.float32
    assert all(mx.array_equal(value, params[name].astype(value.dtype)) for name, value in found.items())
    assert operations.count("AsType") == 1


@pytest.mark.parametrize("n_layers", [1, MOST_PARTS, 60])
def test_factors_are_packed_with_few_operations(n_layers: int) -> None:
    """One behind the other, as ever; of A, which have the rank as their rows, none is reshaped when unpacked."""
    rank, whole = 8, mx.random.normal((16, 24))
    factors = [(f"{place:02}.lora_a", whole[:, 8 * (place % 3) :][:, :rank]) for place in range(n_layers)]
    factors += [(f"{place:02}.lora_b", mx.random.normal((rank, 32 + 16 * (place % 2)))) for place in range(n_layers)]
    params = dict(sorted(factors))
    packing = FlatParams.of(params, make_optimizer(OptimSection(name="adamw")))
    packed: dict[str, Any] = packing.pack(params)

    assert mx.array_equal(packed[FLAT], mx.concatenate([value.reshape(-1) for value in params.values()]))
    assert all(mx.array_equal(value, params[name]) for name, value in packing.unpack(packed).items())
    mx.eval(params, packed)
    with io.StringIO() as graph:
        mx.export_to_dot(graph, *packing.unpack(packed).values())
        counts = {kind: graph.getvalue().count(f'"{kind}"') for kind in ("Slice", "Reshape", "Split")}
    assert counts["Slice"] == 0
    assert counts["Reshape"] == n_layers + 1
    assert counts["Split"] <= 1 + n_layers / 4


def test_what_is_remembered_is_used_only_for_the_same_arrays() -> None:
    """One array replaced by another, and all are packed anew."""
    params = {name: mx.random.normal((2, PACKED_MULTIPLE)) for name in ("a", "b")}
    packing = FlatParams.of(params, make_optimizer(OptimSection(name="sgd")))
    known = packing.remember(packing.pack(params), params)

    assert known is not None
    assert packing.pack(params, known)[FLAT] is known.packed
    changed = packing.pack({**params, "b": mx.zeros((2, PACKED_MULTIPLE))}, known)
    assert mx.array_equal(packing.unpack(changed)["b"], mx.zeros((2, PACKED_MULTIPLE)))


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_what_looks_at_matrices_is_not_packed(name: Any) -> None:
    """Their update of a number depends on its row and column."""
    params = {name: mx.zeros((2, PACKED_MULTIPLE)) for name in ("a", "b")}
    assert not FlatParams.of(params, make_optimizer(OptimSection(name=name))).shapes


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion"])
def test_packed_parameters_are_updated_as_apart(name: Any) -> None:
    """With rates of their own too."""
    section = OptimSection(name=name, weight_decay=0.1 if name != "adam" else 0.0)
    params = {name: mx.random.normal((2, PACKED_MULTIPLE), key=mx.random.key(place)) for place, name in enumerate("ab")}
    gradients = {name: value * 0.5 + 1 for name, value in params.items()}
    factors = {"a": 1.0, "b": 16.0}
    packing = FlatParams.of(params, make_optimizer(section))

    together = make_optimizer(section)
    together.init(packing.pack(params))
    together.state["learning_rate"] = RATE * packing.pack_factors(factors)[FLAT]
    found = packing.unpack(together.apply_gradients(packing.pack(gradients), packing.pack(params)))

    for key, factor in factors.items():
        apart = make_optimizer(section)
        apart.init({key: params[key]})
        apart.state["learning_rate"] = mx.array(RATE * factor)
        expected = apart.apply_gradients({key: gradients[key]}, {key: params[key]})[key]
        np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-6)
