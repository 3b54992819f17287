"""Functions with custom gradients that declare what they keep for them. Pure.

`mx.custom_function` takes any gradient, and does not say which arrays of the forward pass stay in memory for it. Here a
function declares that, and gets no more: a gradient declared to need inputs only is passed nothing else. The memory
plan reads the declaration.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import mlx.core as mx

Keeps = Literal["inputs", "results"]


class CustomVjp:
    """A function whose gradient is given by `vjp`.

    Attributes:
        function: The function.
        keeps: "inputs" if its gradient is computed from its inputs alone, so that its results, and all in between, need
            not be kept; "results" if it reads what the function returned.
        is_ordered: Whether the gradient of the first input is there only once those of all others are.
    """

    def __init__(self, function: Callable[..., Any], keeps: Keeps, *, is_ordered: bool) -> None:
        self.function = function
        self.keeps = keeps
        self.is_ordered = is_ordered
        self._run = mx.custom_function(function)

    def __call__(self, *arrays: mx.array) -> Any:
        """Apply the function."""
        return self._run(*arrays)

    def vjp(self, gradient: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function its gradient; a decorator.

        Args:
            gradient: Takes the inputs and the cotangents, and the results too where they are kept; each is an array, or
                a tuple where there are several. Returns the gradients of the inputs, likewise.
        """
        # Not `self`: MLX's object holds `pull`, and a reference cycle through it would never be freed.
        keeps_results, is_ordered = self.keeps == "results", self.is_ordered

        def pull(primals: Any, cotangents: Any, results: Any) -> Any:
            gradients = gradient(primals, cotangents, *((results,) if keeps_results else ()))
            if not is_ordered:
                return gradients
            first, *others = gradients
            return (mx.depends([first], others)[0], *others)

        self._run.vjp(pull)
        return gradient


def custom_vjp(*, keeps: Keeps, ordered: bool = False) -> Callable[[Callable[..., Any]], CustomVjp]:
    """Declare what the gradient of a function reads; the function's `vjp` then takes the gradient.

    Args:
        keeps: "inputs" for a gradient of inputs and cotangents alone, "results" for one that takes the results too.
        ordered: Give on the gradient of the first input only after those of all others: then what these read need not
            be kept while the gradient goes on to earlier layers.
    """
    return lambda function: CustomVjp(function, keeps, is_ordered=ordered)


def depends_on(value: mx.array, event: mx.array) -> mx.array:
    """Return a value that depends on another array, so that expressions of it are not merged with those of the value.

    A compiled step merges equal expressions. Arrays to be recomputed in the backward pass, rather than kept, have to
    depend on the gradient that arrives there.
    """
    return cast("mx.array", mx.depends([value], [event])[0])
