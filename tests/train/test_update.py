"""The update of a step: what is not finite changes nothing, and the optimizer is left as it was."""

import math

import mlx.core as mx
import pytest

from vlora import TrainState, make_optimizer
from vlora.recipe.schema import OptimSection
from vlora.train.flat_params import FLAT, PACKED_MULTIPLE, FlatParams
from vlora.train.update import Update


def start(name: str) -> tuple[Update, TrainState, dict[str, mx.array]]:
    """An update of two packed parameters and one of an odd size, its state, and gradients of all three."""
    optimizer = make_optimizer(OptimSection(name=name))  # type: ignore[arg-type]
    params = {"a": mx.ones((2, PACKED_MULTIPLE)), "b": mx.ones((PACKED_MULTIPLE,)), "odd": mx.ones((3,))}
    packing = FlatParams.of(params, optimizer)
    packed = packing.pack(params)
    optimizer.init(packed)
    gradients = packing.pack({key: 0.5 * value for key, value in params.items()})
    return Update(optimizer, packing=packing), TrainState(packed, dict(optimizer.state), mx.array(4)), gradients


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_finite_steps_change_parameters(name: str, loss: float) -> None:
    """The step is counted in any case; the packed parameters are given whole and one by one."""
    update, state, gradients = start(name)
    held = update.optimizer.state

    new, packed, norm = update.apply(state, gradients, mx.array(loss), mx.array(2.0), mx.array(0.1))

    assert update.optimizer.state is held
    assert int(new.step) == 5
    assert float(norm) == pytest.approx(0.25 * math.sqrt(3 * PACKED_MULTIPLE + 3), rel=1e-5)
    assert set(new.params) == {"a", "b", "odd"}
    assert mx.array_equal(packed[FLAT][: 2 * PACKED_MULTIPLE].reshape(2, -1), new.params["a"])
    for value in new.params.values():
        assert bool((value == 1).all()) == (not math.isfinite(loss))


def test_gradients_that_came_one_by_one_are_packed() -> None:
    """They give the same parameters."""
    update, state, gradients = start("adamw")
    one = mx.array(1.0)
    packed, _, _ = update.apply(state, gradients, one, one, mx.array(0.1))
    apart, _, _ = update.apply(state, update.packing.unpack(gradients), one, one, mx.array(0.1))

    assert all(mx.array_equal(apart.params[name], value) for name, value in packed.params.items())
