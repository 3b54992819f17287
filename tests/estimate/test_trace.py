"""What is written down of functions with gradients of their own."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from vlora.errors import ModelError
from vlora.estimate.trace import trace
from vlora.ops.custom_vjp import Keeps, custom_vjp

GRADIENTS: dict[str, tuple[Keeps, Callable[..., Any]]] = {
    "inputs": ("inputs", lambda x, cotangent: cotangent * x),
    "inputs, another name": ("inputs", lambda x, unused: unused * x),
    "results": ("results", lambda _, cotangent, result: cotangent * result),
    "results, an underscore": ("results", lambda _, cotangent, _result: cotangent * _result),
    "results, unnamed": ("results", lambda *given: given[1] * given[2]),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_what_is_kept_is_what_is_declared(case: str) -> None:
    """What is not kept runs again in the backward pass, whatever the parameters of the gradient are called."""
    keeps, gradient = GRADIENTS[case]

    @custom_vjp(keeps=keeps)
    def run(x: mx.array) -> mx.array:
        return mx.exp(mx.sin(x))

    run.vjp(gradient)
    graph, _ = trace(mx.value_and_grad(lambda given: run(given["x"]).sum()), {"x": mx.ones(4)})
    n_sines = [node.name for node in graph.nodes].count("Sin")

    assert n_sines == (2 if keeps == "inputs" else 1)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_ordered_gradient_waits(ordered: bool) -> None:
    """The first input's gradient is given on after the others."""

    @custom_vjp(keeps="inputs", ordered=ordered)
    def run(x: mx.array, y: mx.array) -> mx.array:
        return x * mx.sin(y)

    run.vjp(lambda given, cotangent: (cotangent * mx.sin(given[1]), cotangent * given[0] * mx.cos(given[1])))
    pull = mx.grad(lambda x, y: run(x, y).sum(), argnums=(0, 1))
    graph, _ = trace(lambda given: pull(given["x"], given["y"]), {"x": mx.ones(4), "y": mx.ones(4)})
    first = next(node for node in graph.nodes if graph.outputs[0] in node.outputs)

    assert (first.name == "Depends") == ordered


def test_what_stood_in_is_gone_afterwards() -> None:
    """Functions run as they are again, with their own gradients."""

    @custom_vjp(keeps="inputs")
    def run(x: mx.array) -> mx.array:
        return 2 * x

    run.vjp(lambda x, cotangent: 7 * cotangent + 0 * x)
    held = mx.custom_function, mx.depends, mx.checkpoint
    trace(lambda given: run(given["x"]), {"x": mx.ones(4)})

    assert (mx.custom_function, mx.depends, mx.checkpoint) == held
    assert mx.grad(run)(mx.array(1.0)).item() == 7.0


def test_a_model_that_looks_at_values_is_told() -> None:
    """In words, and not as MLX's error."""
    with pytest.raises(ModelError, match="looks at values while it runs"):
        trace(lambda given: given["x"] * given["x"].sum().item(), {"x": mx.ones((2,))})
