"""A training step's tape: what MLX would run, written down without running it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ..ops import cpu_exp
from ..types import Batch, TrainState
from .graph import Array, Graph, Node, RematRegion, rematerialize

MARK_TYPES = (mx.float32, mx.bfloat16, mx.float16)
MAX_MARKS = 2**14


class _Marks:
    """Scalars by which the arguments and results of recomputed functions are multiplied while they are traced."""

    def __init__(self) -> None:
        self.scalars = {f"mark {number}": mx.array(1.0) for number in range(MAX_MARKS)}
        self.given: dict[str, mx.array] = {}
        self.segments: list[RematRegion] = []
        self._n_used = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Trace a function plainly, its boundaries marked."""
        return lambda *args, **kwargs: self.run(function, args, kwargs, is_ordered=False)

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, *, is_ordered: bool) -> Any:
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
        self.segments.append(RematRegion(enters=frozenset(enters), leaves=frozenset({leave}), first=first))
        return results

    def _next(self) -> str:
        self._n_used += 1
        return f"mark {self._n_used - 1}"

    def _mark(self, value: Any, name: str) -> Any:
        if not isinstance(value, mx.array) or value.dtype not in MARK_TYPES:
            return value
        return value * self.given[name].astype(value.dtype)


class _PlainFunction:
    """Stands in for a function with a gradient of its own, which MLX cannot write down."""

    def __init__(self, function: Callable[..., Any], marks: _Marks) -> None:
        self._function = function
        self._marks = marks
        self._is_ordered = self._keeps = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._keeps and not self._is_ordered:
            # What a plain gradient reads is what is kept.
            return self._function(*args, **kwargs)
        return self._marks.run(self._function, args, kwargs, is_ordered=self._is_ordered)

    def vjp(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # What a gradient of our own waits for: those of the arguments behind the first.
        self._is_ordered = "depends" in function.__code__.co_names
        # A gradient that reads results, which are kept for it, gives them a name.
        self._keeps = not function.__code__.co_varnames[2].startswith("_")
        return function

    def jvp(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    vmap = jvp


def attention_in_kernels(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any = None, **_: Any
) -> mx.array:
    """Stand in for attention on CUDA, whose gradient MLX cannot write down: what is kept and made, but no scores.

    Args:
        queries: f[B, H, T, D].
        keys: f[B, K, S, D].
        values: f[B, K, S, E].
        scale: Not needed for a size, as is the mask.
        mask: See above.

    Returns:
        f[B, H, T, E], of no meaning.
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
    """Stand in for attention on Metal: kernels where a mask is not an array, and heads are of the widths they have.

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
    """Stand in for exponentials by arithmetic on a CPU, which has no gradient: the bits, then the powers."""
    bits = mx.stop_gradient(x).astype(mx.int32)
    return mx.exp(mx.depends([x], [bits])[0])


@contextmanager
def _written_plainly(marks: _Marks) -> Iterator[None]:
    """Let MLX trace recomputed functions, and functions with a gradient of their own, as plain ones."""
    held = {name: getattr(mx, name) for name in ("checkpoint", "compile", "custom_function", "depends")}
    attention = "scaled_dot_product_attention"
    attend, depends = getattr(mx.fast, attention), mx.depends
    is_cuda = mx.cuda.is_available
    in_passes = {name: getattr(cpu_exp, name) for name in ("raw_exponential", "raw_logistic", "reduce_rows")}

    def only_after(inputs: Any, dependencies: Any) -> Any:
        # Without the gradient that a plain trace would seek behind what is only waited for.
        return depends(inputs, [mx.stop_gradient(value) for _, value in tree_flatten(dependencies)])

    try:
        replaced = {
            "checkpoint": marks.wrap,
            # A compiled part would take the marks in it for constants and ask for their values; `compile_tape` follows.
            "compile": lambda function, **_: function,
            "custom_function": lambda function: _PlainFunction(function, marks),
            "depends": only_after,
        }
        for name, function in replaced.items():
            setattr(mx, name, function)
        cpu_exp.raw_exponential = exponential_in_passes
        cpu_exp.raw_logistic = lambda x: mx.sigmoid(x)  # noqa: PLW0108 - its type
        # The largest number of a row is a constant to whoever takes it.
        cpu_exp.reduce_rows = lambda reduce, x: in_passes["reduce_rows"](
            reduce, mx.stop_gradient(x) if reduce is mx.max else x
        )
        if is_cuda():
            setattr(mx.fast, attention, attention_in_kernels)
            # Kernels of vlora's own cannot be written down; what runs without them makes arrays of the same sizes, but
            # for the loss: a chunk of its logits is counted in float32 too.
            mx.cuda.is_available = lambda: False
        elif mx.metal.is_available() and mx.default_device() != mx.Device(mx.cpu):
            setattr(mx.fast, attention, functools.partial(attention_on_metal, attend))
        yield
    finally:
        for name, function in held.items():
            setattr(mx, name, function)
        setattr(mx.fast, attention, attend)
        for name, function in in_passes.items():
            setattr(cpu_exp, name, function)
        mx.cuda.is_available = is_cuda


def trace(
    function: Callable[[dict[str, mx.array]], Any], inputs: Mapping[str, mx.array]
) -> tuple[Graph, dict[str, str]]:
    """Write down what a function of arrays would run; nothing is computed.

    Args:
        function: Takes the arrays by name; returns a tree of arrays.
        inputs: Arrays of the shapes and types that it would be given.

    Returns:
        The tape, and the tape's name of each input.
    """
    marks = _Marks()
    names = [*inputs, *marks.scalars]
    events: list[dict[str, Any]] = []

    def run(*values: mx.array) -> list[mx.array]:
        given = dict(zip(names, values, strict=True))
        marks.given = {name: given[name] for name in marks.scalars}
        return [value for _, value in tree_flatten(function({name: given[name] for name in inputs}))]

    with _written_plainly(marks):
        mx.export_function(events.append, run, *inputs.values(), *marks.scalars.values())
    tape, tape_names = _read_tape(events, names)
    used = [
        RematRegion(
            enters=frozenset(tape_names[mark] for mark in segment.enters),
            leaves=frozenset(tape_names[mark] for mark in segment.leaves),
            first=None if segment.first is None else tape_names[segment.first],
        )
        for segment in marks.segments
    ]
    return rematerialize(tape, used), {name: tape_names[name] for name in inputs}


def _read_tape(events: list[dict[str, Any]], names: list[str]) -> tuple[Graph, dict[str, str]]:
    arrays: dict[str, Array] = {}
    nodes: list[Node] = []
    inputs: list[str] = []
    outputs: list[str] = []

    def add(entries: Any) -> tuple[str, ...]:
        for name, shape, dtype in entries:
            arrays[name] = Array(tuple(shape), dtype.size)
        return tuple(entry[0] for entry in entries)

    for event in events:
        if event["type"] == "inputs":
            inputs.extend(add(event["inputs"]))
        elif event["type"] == "outputs":
            outputs.extend(add(event["outputs"]))
        elif event["type"] == "constants":
            inputs.extend(add((name, value.shape, value.dtype) for name, value in event["constants"]))
        elif event["type"] == "primitive":
            given, made = add(event["inputs"]), add(event["outputs"])
            arguments = event["arguments"]
            text = str(arguments[0] if event["name"] == "Transpose" else arguments)
            nodes.append(Node(event["name"], text, given, made))
    tape = Graph(arrays=arrays, nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs))
    return tape, dict(zip(names, inputs, strict=False))


class _Fed:
    """A backbone whose embedding has been done: what a step of the language model alone sees."""

    def __init__(self, backbone: Any, features: Any, others: Any) -> None:
        self._backbone = backbone
        self._embedded = features, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def embed(self, _: Batch) -> tuple[Any, Any]:
        return self._embedded

    def embed_vjp(self, *_: Any) -> dict[str, mx.array]:
        trained = dict(tree_flatten(self._backbone.module.trainable_parameters()))
        return {name: mx.zeros(trained[name].shape) for name in self._backbone.embed_param_names()}


@attrs.frozen(kw_only=True, eq=False)
class StepTape:
    """The tape of a training step, and what its arrays are.

    Attributes:
        tape: From weights, state and embedded rows to the next state.
        weights: Inputs that the model holds, all but the trainable ones, which it has let go.
        state: Inputs that are the trainable parameters' masters and the optimizer's state.
    """

    tape: Graph
    weights: tuple[str, ...]
    state: tuple[str, ...]


def trace_step(
    backbone: Any,
    state: TrainState,
    batch: Batch,
    embedded: tuple[Any, Any],
    make_step: Callable[[Any], Callable[..., Any]],
) -> StepTape:
    """Write down a training step behind the embedding.

    Args:
        backbone: The model.
        state: Of the run's beginning.
        batch: One microbatch.
        embedded: What `backbone.embed` gives for it.
        make_step: Makes the step of a backbone, not compiled.
    """
    module = backbone.module
    weights = dict(tree_flatten(module.parameters()))
    arrays = {name: value for name, value in batch._asdict().items() if isinstance(value, mx.array)}
    rest = (state, embedded, arrays)
    leaves = [value for _, value in tree_flatten(rest)]
    n_state = len(tree_flatten(state))
    inputs = {
        **{f"weight {name}": value for name, value in weights.items()},
        **{f"rest {number}": value for number, value in enumerate(leaves)},
    }

    def run(given: dict[str, mx.array]) -> Any:
        values = iter([given[f"rest {number}"] for number in range(len(leaves))])
        params, opt_state, step = (tree_map(lambda _: next(values), part) for part in state)
        features, others = (tree_map(lambda _: next(values), part) for part in embedded)
        named: dict[str, Any] = {name: next(values) for name in arrays}
        fed = batch._replace(**named)
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        take = make_step(_Fed(backbone, features, others))
        return take(TrainState(params, opt_state, step), fed, 1.0)

    try:
        tape, names = trace(run, inputs)
    finally:
        module.update(tree_unflatten(list(weights.items())))
    trained = dict(tree_flatten(module.trainable_parameters()))
    return StepTape(
        tape=tape,
        weights=tuple(names[f"weight {name}"] for name in weights if name not in trained),
        state=tuple(names[f"rest {number}"] for number in range(n_state)),
    )


def trace_embedding(
    backbone: Any, batch: Batch, features: Any, checkpoint_modules: Sequence[nn.Module] = ()
) -> list[tuple[Graph, tuple[str, ...]]]:
    """Write down how a batch is embedded, and where something behind it is trained, how its gradient is found.

    Args:
        backbone: The model.
        batch: One microbatch.
        features: What `backbone.embed` gives for it, first part.
        checkpoint_modules: What keeps no activations for the gradient.

    Returns:
        For each of them the tape, and its inputs that the model holds.
    """
    module = backbone.module
    weights = dict(tree_flatten(module.parameters()))
    cotangents = [value for _, value in tree_flatten(features)]
    given_weights = {f"weight {name}": value for name, value in weights.items()}

    def embed(given: dict[str, mx.array]) -> Any:
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        return backbone.embed(batch)[0]

    def pull(given: dict[str, mx.array]) -> Any:
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        values = iter([given[f"cotangent {number}"] for number in range(len(cotangents))])
        return backbone.embed_vjp(batch, tree_map(lambda _: next(values), features), checkpoint_modules)

    graphs = []
    functions: list[tuple[Callable[..., Any], dict[str, mx.array]]] = [(embed, given_weights)]
    if backbone.embed_param_names():
        more = {f"cotangent {number}": value for number, value in enumerate(cotangents)}
        functions.append((pull, {**given_weights, **more}))
    for function, inputs in functions:
        backbone.forget_traces()
        try:
            tape, names = trace(function, inputs)
        finally:
            module.update(tree_unflatten(list(weights.items())))
            backbone.forget_traces()
        graphs.append((tape, tuple(names[name] for name in given_weights)))
    return graphs
