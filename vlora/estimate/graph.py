"""A training step as a graph: its operations, the shapes of their results, and the order in which MLX runs them. Pure.

MLX cannot export functions with custom gradients, so recomputation does not show in its graphs. Such functions are
traced as plain ones between marks, and `rematerialize` inserts copies of the operations between the marks into the
backward pass.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

MAX_WIDTH = 20
"""Operations that MLX queues breadth first before it continues depth first (its MLX_BFS_MAX_WIDTH)."""

ELEMENTWISE = frozenset(
    {"Abs", "Add", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTan2", "ArcTanh", "AsType", "BitwiseBinary"}
    | {"BitwiseInvert", "Ceil", "Conjugate", "Cos", "Cosh", "Divide", "Equal", "Erf", "ErfInv", "Exp", "Expm1", "Floor"}
    | {"Greater", "GreaterEqual", "Less", "LessEqual", "Log", "Log1p", "LogAddExp", "LogicalAnd", "LogicalNot"}
    | {"LogicalOr", "Maximum", "Minimum", "Multiply", "Negative", "NotEqual", "Power", "Remainder", "Round", "Select"}
    | {"Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Square", "Subtract", "Tan", "Tanh"}
)
"""Operations that MLX fuses."""

VIEWS = frozenset(
    {"AsStrided", "Broadcast", "BroadcastAxes", "Contiguous", "Copy", "Depends", "ExpandDims", "Flatten", "Mark"}
    | {"Reshape", "Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View"}
)
"""Operations whose result shares its buffer with the first input, where the layout allows it."""


@attrs.frozen
class Array:
    """An array of a graph.

    Attributes:
        shape: Its dimensions.
        itemsize: Bytes of a number.
    """

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.itemsize


@attrs.frozen(eq=False)
class Node:
    """An operation: its name, its parameters, and the names of its inputs and outputs."""

    name: str
    arguments: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False)
class Graph:
    """A step as its operations in topological order.

    Attributes:
        arrays: Every array by name.
        nodes: The operations.
        inputs: Arrays that exist before the step.
        outputs: Arrays that the step returns.
    """

    arrays: Mapping[str, Array]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def topological_order(nodes: Sequence[Node]) -> list[Node]:
    """Sort the operations topologically."""
    made_by = {array: node for node in nodes for array in node.outputs}
    ordered: dict[int, Node] = {}
    for root in nodes:
        stack = [(root, False)]
        while stack:
            node, is_ready = stack.pop()
            if id(node) in ordered:
                continue
            if is_ready:
                ordered[id(node)] = node
                continue
            stack.append((node, True))
            stack.extend((made_by[array], False) for array in reversed(node.inputs) if array in made_by)
    return list(ordered.values())


def schedule(graph: Graph) -> list[Node]:
    """Put the operations into the order in which MLX runs them.

    MLX traverses the graph from the outputs, breadth first while at most `MAX_WIDTH` operations are queued, then depth
    first, and runs the operations in reverse order.
    """
    made_by = {array: node for node in graph.nodes for array in node.outputs}
    degrees: Counter[int] = Counter()
    root = Node("Outputs", "", graph.outputs, ())
    for node in (*graph.nodes, root):
        degrees.update(id(made_by[array]) for array in node.inputs if array in made_by)
    order = [root]
    waiting: list[tuple[Node, int]] = []
    place = 0
    while place < len(order) or waiting:
        if place >= len(order):
            node, first = waiting.pop()
        else:
            node, first = order[place], 0
            place += 1
        for number in range(first, len(node.inputs)):
            given = made_by.get(node.inputs[number])
            if given is None:
                continue
            if len(order) - place >= MAX_WIDTH:
                waiting.append((node, number))
                break
            degrees[id(given)] -= 1
            if not degrees[id(given)]:
                order.append(given)
    return order[:0:-1]
