"""What a function with a gradient of its own declares, and that it is held to it."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from vlora.ops.custom_vjp import custom_vjp, depends_on


def primitives(function: Callable[..., Any], *arrays: mx.array) -> list[str]:
    """Name the operations of a function, in order."""
    found: list[str] = []
    mx.export_function(lambda event: found.append(str(event.get("name"))), function, *arrays)
    return found


def test_a_gradient_of_inputs_sees_nothing_else() -> None:
    """It cannot keep results alive: it is not given them."""

    @custom_vjp(keeps="inputs")
    def square(x: mx.array) -> mx.array:
        return x * x

    @square.vjp
    def square_vjp(*given: mx.array) -> mx.array:
        x, cotangent = given
        return 3 * x * cotangent

    assert mx.grad(square)(mx.array(2.0)).item() == 6.0
    assert square(mx.array(2.0)).item() == 4.0


def test_a_gradient_of_results_is_given_them() -> None:
    """As the function returned them."""

    @custom_vjp(keeps="results")
    def power(x: mx.array) -> mx.array:
        return mx.exp(x) + 1

    power.vjp(lambda _, cotangent, result: cotangent * result)

    assert mx.grad(power)(mx.array(0.0)).item() == 2.0


@pytest.mark.parametrize("ordered", [True, False])
def test_gradients_come_in_order(ordered: bool) -> None:
    """The first one waits for the others, and is the same number."""

    @custom_vjp(keeps="inputs", ordered=ordered)
    def product(x: mx.array, y: mx.array) -> mx.array:
        return x * y

    product.vjp(lambda given, cotangent: (cotangent * given[1], cotangent * given[0]))
    pull = mx.grad(product, argnums=(0, 1))

    assert [value.item() for value in pull(mx.array(2.0), mx.array(5.0))] == [5.0, 2.0]
    assert ("Depends" in primitives(pull, mx.array(2.0), mx.array(5.0))) == ordered


def test_nothing_holds_a_function() -> None:
    """What its gradient closes over, the weights of a layer, is free with it."""

    def make() -> weakref.ref[Any]:
        held = mx.ones(3)
        kept = {"weight": held}

        @custom_vjp(keeps="inputs", ordered=True)
        def scaled(x: mx.array, y: mx.array) -> mx.array:
            return x * y * kept["weight"]

        scaled.vjp(lambda given, cotangent: (cotangent * given[1], cotangent * given[0]))
        scaled(held, held)
        return weakref.ref(scaled)

    found = make()
    gc.collect()

    assert found() is None


@pytest.mark.parametrize("again", [True, False])
def test_what_waits_for_an_event_is_not_merged(again: bool) -> None:
    """A compiled function computes an expression once, unless one of them waits: then its value need not be kept."""
    kernels: list[str] = []

    def run(x: mx.array) -> mx.array:
        done = mx.cumsum(mx.sin(x))
        return done + mx.sin(depends_on(x, done) if again else x)

    mx.export_function(lambda event: kernels.append(str(event.get("name"))), mx.compile(run), mx.ones(4))

    assert kernels.count("Sin") + sum(name.count("Sin") for name in kernels if name.startswith("Compiled")) == 1 + again
