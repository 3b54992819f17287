"""Replacements, while a step is traced, of functions that MLX cannot export: the same arrays in plain operations.

MLX exports neither functions with custom gradients nor recomputed ones. They are traced as plain functions between
marks: scalars by which their arguments and results are multiplied, and which `rematerialize` reads. What a function
keeps for its gradient is declared with `vlora.ops.custom_vjp`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from ..ops import cpu_exp
from ..ops.custom_vjp import CustomVjp
from .rematerialize import RematRegion

MARK_TYPES = (mx.float32, mx.bfloat16, mx.float16)
MAX_MARKS = 2**14


class Marks:
    """Scalars by which the arguments and results of recomputed functions are multiplied while they are traced."""

    def __init__(self) -> None:
        self.scalars = _make_scalars()
        self.given: dict[str, mx.array] = {}
        self.regions: list[RematRegion] = []
        self._n_used = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Trace a function as a plain one with marked boundaries."""
        return lambda *args, **kwargs: self.run(function, args, kwargs)

    def checkpoint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Replace `mx.checkpoint`, whose recomputation waits for the function's results, not for their gradients."""
        return lambda *args, **kwargs: self.run(function, args, kwargs, waits="results")

    def run(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        is_ordered: bool = False,
        waits: Literal["gradients", "results"] = "gradients",
    ) -> Any:
        """Run a function between marks; `is_ordered` where the gradient of its first argument follows the others."""
        enters = [self._next() for _ in args] or [self._next()]
        leave = self._next()
        args = [
            tree_map(functools.partial(self._mark, name=name), arg) for arg, name in zip(args, enters, strict=False)
        ]
        kwargs = tree_map(functools.partial(self._mark, name=enters[0]), kwargs)
        results = tree_map(functools.partial(self._mark, name=leave), function(*args, **kwargs))
        # Appended when it ends: inner ones come first.
        first = enters[0] if is_ordered else None
        self.regions.append(RematRegion(enters=frozenset(enters), leaves=frozenset({leave}), first=first, waits=waits))
        return results

    def _next(self) -> str:
        self._n_used += 1
        return f"mark {self._n_used - 1}"

    def _mark(self, value: Any, name: str) -> Any:
        if not isinstance(value, mx.array) or value.dtype not in MARK_TYPES:
            return value
        return value * self.given[name].astype(value.dtype)


@functools.cache
def _make_scalars() -> Mapping[str, mx.array]:
    """Make the marks, which no trace changes."""
    return {f"mark {number}": mx.array(1.0) for number in range(MAX_MARKS)}


class _ForeignFunction:
    """Replaces a function of another package with a custom gradient that keeps only its inputs."""

    def __init__(self, function: Callable[..., Any], marks: Marks) -> None:
        self._run = marks.wrap(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def vjp(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    jvp = vmap = vjp


def _run_declared(marks: Marks, function: CustomVjp, *arrays: mx.array) -> Any:
    """Run a function of vlora according to its declaration."""
    if function.keeps == "results" and not function.is_ordered:
        # A plain gradient keeps the results that it reads.
        return function.function(*arrays)
    return marks.run(function.function, arrays, {}, is_ordered=function.is_ordered)


def attention_in_kernels(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any = None, **_: Any
) -> mx.array:
    """Replace attention on CUDA, whose gradient MLX cannot export: the arrays that it keeps and makes, but no scores.

    Args:
        queries: f[B, H, T, D].
        keys: f[B, K, S, D].
        values: f[B, K, S, E].
        scale: Not needed for a size, as is the mask.
        mask: See above.

    Returns:
        f[B, H, T, E], with meaningless values.
    """
    del scale, mask
    seen = (keys * keys).sum(axis=(1, 2, 3), keepdims=True) + (values * values).sum(axis=(1, 2, 3), keepdims=True)
    result = mx.broadcast_to(queries[..., :1], (*queries.shape[:-1], values.shape[-1]))
    return result * seen if queries.shape[-1] != values.shape[-1] else queries * seen


METAL_WIDTHS = frozenset({*((width, width) for width in (64, 72, 80, 96, 128, 192, 256)), (96, 64)})
"""Widths of a head's keys and values for which MLX 0.32.4 has attention with a gradient on Metal."""


def attention_on_metal(
    attend: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    mask: Any = None,
    **rest: Any,
) -> mx.array:
    """Replace attention on Metal: kernels where a mask is not an array, and heads are of the widths they have.

    Args:
        attend: MLX's own attention, which keeps scores wherever it has no kernel.
        queries: f[B, H, T, D].
        keys: f[B, K, S, D].
        values: f[B, K, S, E].
        mask: As MLX takes it.
        rest: Likewise.

    Returns:
        f[B, H, T, E].
    """
    widths = queries.shape[-1], values.shape[-1]
    if isinstance(mask, mx.array) or rest.get("sinks") is not None or widths not in METAL_WIDTHS:
        return attend(queries, keys, values, mask=mask, **rest)
    return attention_in_kernels(queries, keys, values, **rest)


def exponential_in_passes(x: mx.array) -> mx.array:
    """Replace a CPU's exponentials without a gradient, which are computed by arithmetic, by arrays of equal sizes."""
    bits = mx.stop_gradient(x).astype(mx.int32)
    return mx.exp(mx.depends([x], [bits])[0])


@contextmanager
def written_plainly(marks: Marks) -> Iterator[None]:
    """Let MLX trace recomputed functions, and functions with a gradient of their own, as plain ones."""
    with ExitStack() as stack:
        # What was compiled when its module was imported runs as it is written.
        mx.disable_compile()
        stack.callback(mx.enable_compile)
        for owner, name, stand_in in _stand_ins(marks):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, stand_in)
        yield


def _stand_ins(marks: Marks) -> list[tuple[Any, str, Any]]:
    """List the replacements: (module or class, name, value)."""
    depends, reduce_rows = mx.depends, cpu_exp.reduce_rows

    def only_after(inputs: Any, dependencies: Any) -> Any:
        # Without the gradient that a plain trace would look for in the dependencies.
        return depends(inputs, [mx.stop_gradient(value) for _, value in tree_flatten(dependencies)])

    found: list[tuple[Any, str, Any]] = [
        (mx, "checkpoint", marks.checkpoint),
        # Compiled, it would ask for the values of the marks in it; `compile_graph` comes later.
        (mx, "compile", lambda function, **_: function),
        (mx, "custom_function", lambda function: _ForeignFunction(function, marks)),
        (mx, "depends", only_after),
        # MLX does not export it; what it copies are states of single tokens.
        (mx, "contiguous", lambda array, *_, **__: array),
        (CustomVjp, "__call__", lambda function, *arrays: _run_declared(marks, function, *arrays)),
        (cpu_exp, "raw_exponential", exponential_in_passes),
        (cpu_exp, "raw_sigmoid", mx.sigmoid),
        # The largest number of a row is a constant where it is used.
        (cpu_exp, "reduce_rows", lambda reduce, x: reduce_rows(reduce, mx.stop_gradient(x) if reduce is mx.max else x)),
    ]
    attention = "scaled_dot_product_attention"
    if mx.cuda.is_available():
        # Kernels of vlora's own cannot be written down; what runs without them makes arrays of the same sizes, but for
        # the loss: a chunk of its logits is counted in float32 too.
        found += [(mx.fast, attention, attention_in_kernels), (mx.cuda, "is_available", lambda: False)]
    elif mx.metal.is_available() and mx.default_device() != mx.Device(mx.cpu):
        found.append((mx.fast, attention, functools.partial(attention_on_metal, getattr(mx.fast, attention))))
    return found
