"""A training step as a graph: its operations, the shapes that they give, and the order in which MLX runs them. Pure.

Recomputation cannot be read off what MLX writes down: it writes down no function with a gradient of its own. So such
functions are traced as plain ones between marks, and `rematerialize` gives the backward pass copies of what lies
between.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

MAX_WIDTH = 20
"""How many operations MLX lines up breadth first before it goes down (its MLX_BFS_MAX_WIDTH)."""

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
    """A result on a graph.

    Attributes:
        shape: Its dimensions.
        itemsize: Bytes of a number.
    """

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of its numbers."""
        return math.prod(self.shape) * self.itemsize


@attrs.frozen(eq=False)
class Node:
    """An operation: its name, what it is called with, the results that it reads and gives."""

    name: str
    arguments: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False)
class Graph:
    """A step as its operations, each after those that it reads.

    Attributes:
        arrays: Every array by name.
        nodes: The operations.
        inputs: Arrays that are there before.
        outputs: Arrays that the step returns.
    """

    arrays: Mapping[str, Array]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def topological_order(nodes: Sequence[Node]) -> list[Node]:
    """Put every operation after those that it reads."""
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

    It goes through the graph breadth first from the outputs, as long as no more than `MAX_WIDTH` operations are lined
    up, then in depth, and runs what it found from the end.
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
