"""Traces a training step: the graph that MLX would run, exported without running it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ..errors import ModelError
from ..types import Batch, TrainState
from .graph import Array, Graph, Node
from .rematerialize import RematRegion, rematerialize
from .stand_ins import Marks, written_plainly

NEEDS_VALUES = "Attempting to eval an array"
"""What MLX says of a function that cannot be traced on shapes alone."""


def trace(
    function: Callable[[dict[str, mx.array]], Any], inputs: Mapping[str, mx.array]
) -> tuple[Graph, dict[str, str]]:
    """Trace a function of arrays without computing anything.

    Args:
        function: Takes the arrays by name; returns a tree of arrays.
        inputs: Arrays of the shapes and types that it would be given.

    Returns:
        The graph, and its name of each input.

    Raises:
        ModelError: The function looks at values.
    """
    marks = Marks()
    names = [*inputs, *marks.scalars]
    events: list[dict[str, Any]] = []

    def run(*values: mx.array) -> list[mx.array]:
        given = dict(zip(names, values, strict=True))
        marks.given = {name: given[name] for name in marks.scalars}
        return [value for _, value in tree_flatten(function({name: given[name] for name in inputs}))]

    with written_plainly(marks), naming_values():
        mx.export_function(events.append, run, *inputs.values(), *marks.scalars.values())
    graph, graph_names = _read_graph(events, names)
    used = [
        RematRegion(
            enters=frozenset(graph_names[mark] for mark in region.enters),
            leaves=frozenset(graph_names[mark] for mark in region.leaves),
            first=None if region.first is None else graph_names[region.first],
            waits=region.waits,
        )
        for region in marks.regions
    ]
    return rematerialize(graph, used), {name: graph_names[name] for name in inputs}


@contextmanager
def naming_values() -> Iterator[None]:
    """Say in words that a model cannot be traced on shapes alone.

    Raises:
        ModelError: MLX says so.
    """
    try:
        yield
    except ValueError as error:
        if NEEDS_VALUES not in str(error):
            raise
        msg = "this model looks at values while it runs, so that its memory cannot be planned"
        raise ModelError(msg) from None


def _read_graph(events: list[dict[str, Any]], names: list[str]) -> tuple[Graph, dict[str, str]]:
    arrays: dict[str, Array] = {}
    nodes: list[Node] = []
    inputs: list[str] = []
    outputs: list[str] = []

    def add(entries: Any) -> tuple[str, ...]:
        for name, shape, dtype in entries:
            # Most are named again by each operation that reads them.
            if name not in arrays:
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
    graph = Graph(arrays=arrays, nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs))
    return graph, dict(zip(names, inputs, strict=False))


class _Fed:
    """A backbone that returns an embedding computed before, so that a step runs the language model alone."""

    def __init__(self, backbone: Any, differentiable: Any, auxiliary: Any) -> None:
        self._backbone = backbone
        self._embedded = differentiable, auxiliary

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def embed(self, _: Batch) -> tuple[Any, Any]:
        return self._embedded

    def embed_vjp(self, *_: Any) -> dict[str, mx.array]:
        trained = dict(tree_flatten(self._backbone.module.trainable_parameters()))
        return {name: mx.zeros(trained[name].shape) for name in self._backbone.embed_param_names()}


@attrs.frozen(kw_only=True, eq=False)
class StepGraph:
    """The graph of a training step, and what its arrays are.

    Attributes:
        graph: From weights, state and embedded rows to the next state.
        weights: Inputs that the model holds, without the trainable ones, which `unbind` has removed.
        state: Inputs that are the trainable parameters' masters and the optimizer's state.
    """

    graph: Graph
    weights: tuple[str, ...]
    state: tuple[str, ...]


def trace_step(
    backbone: Any,
    state: TrainState,
    batch: Batch,
    embedded: tuple[Any, Any],
    make_step: Callable[[Any], Callable[..., Any]],
) -> StepGraph:
    """Trace a training step after the embedding.

    Args:
        backbone: The model.
        state: The state before the first step.
        batch: One microbatch.
        embedded: The result of `backbone.embed` for it.
        make_step: Makes the step of a backbone, not compiled.
    """
    module = backbone.module
    weights = dict(tree_flatten(module.parameters()))
    arrays = {name: value for name, value in batch._asdict().items() if isinstance(value, mx.array)}
    targets = {name: value for name, value in batch.targets._asdict().items() if isinstance(value, mx.array)}
    leaves = [value for _, value in tree_flatten((state, embedded, arrays, targets))]
    n_state = len(tree_flatten(state))
    inputs = {
        **{f"weight {name}": value for name, value in weights.items()},
        **{f"rest {number}": value for number, value in enumerate(leaves)},
    }

    def run(given: dict[str, mx.array]) -> Any:
        values = iter([given[f"rest {number}"] for number in range(len(leaves))])
        params, opt_state, step = (tree_map(lambda _: next(values), part) for part in state)
        differentiable, auxiliary = (tree_map(lambda _: next(values), part) for part in embedded)
        named: dict[str, Any] = {name: next(values) for name in arrays}
        predicted: dict[str, Any] = {name: next(values) for name in targets}
        fed = batch._replace(**named, targets=batch.targets._replace(**predicted))
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        take = make_step(_Fed(backbone, differentiable, auxiliary))
        return take(TrainState(params, opt_state, step), fed, 1.0)

    try:
        graph, names = trace(run, inputs)
    finally:
        module.update(tree_unflatten(list(weights.items())))
    trained = dict(tree_flatten(module.trainable_parameters()))
    return StepGraph(
        graph=graph,
        weights=tuple(names[f"weight {name}"] for name in weights if name not in trained),
        state=tuple(names[f"rest {number}"] for number in range(n_state)),
    )


def trace_embedding(
    backbone: Any, batch: Batch, differentiable: Any, checkpoint_modules: Sequence[nn.Module] = ()
) -> list[tuple[Graph, tuple[str, ...]]]:
    """Trace the embedding of a batch and, if any of its parameters are trained, its gradient.

    Args:
        backbone: The model.
        batch: One microbatch.
        differentiable: The first part of the result of `backbone.embed` for it.
        checkpoint_modules: Modules that keep no activations for the gradient.

    Returns:
        For each of them the graph, and its inputs that the model holds.
    """
    module = backbone.module
    weights = dict(tree_flatten(module.parameters()))
    cotangents = [value for _, value in tree_flatten(differentiable)]
    given_weights = {f"weight {name}": value for name, value in weights.items()}

    def embed(given: dict[str, mx.array]) -> Any:
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        return backbone.embed(batch)[0]

    def pull(given: dict[str, mx.array]) -> Any:
        module.update(tree_unflatten([(name, given[f"weight {name}"]) for name in weights]))
        values = iter([given[f"cotangent {number}"] for number in range(len(cotangents))])
        return backbone.embed_vjp(batch, tree_map(lambda _: next(values), differentiable), checkpoint_modules)

    graphs = []
    functions: list[tuple[Callable[..., Any], dict[str, mx.array]]] = [(embed, given_weights)]
    if backbone.embed_param_names():
        more = {f"cotangent {number}": value for number, value in enumerate(cotangents)}
        functions.append((pull, {**given_weights, **more}))
    for function, inputs in functions:
        backbone.forget_traces()
        try:
            graph, names = trace(function, inputs)
        finally:
            module.update(tree_unflatten(list(weights.items())))
            backbone.forget_traces()
        graphs.append((graph, tuple(names[name] for name in given_weights)))
    return graphs
