"""A training step as a tape: its operations, with the shapes that they give, in the order in which MLX runs them. Pure.

Recomputation cannot be read off a tape directly: MLX writes no tape of functions with a gradient of their own. So they
are traced as plain functions between marks; `rematerialize` then gives the backward pass copies of what lies between.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

MAX_WIDTH = 20
"""How many operations MLX lines up breadth first before it goes down (its MLX_BFS_MAX_WIDTH)."""

MAX_DEPTH, MAX_ARRAYS = 11, 24
"""How deep MLX fuses operations, and how many arrays a fused one reads (its max_compile_depth, max_compile_arrays)."""

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
    """A result on a tape.

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
class RematRegion:
    """A function that runs again in the backward pass, by the marks around it.

    Attributes:
        enters: Marks that its arguments are multiplied with.
        leaves: Marks that its results are multiplied with.
        first: The mark of the argument whose gradient is given on after those of all others; None if none is.
    """

    enters: frozenset[str]
    leaves: frozenset[str]
    first: str | None = None


@attrs.frozen(kw_only=True, eq=False)
class Graph:
    """A step as its operations, each after those that it reads.

    Attributes:
        arrays: Every array by name.
        nodes: The operations.
        inputs: Arrays that are there before.
        outputs: Arrays that are asked for.
    """

    arrays: Mapping[str, Array]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def rematerialize(tape: Graph, segments: Sequence[RematRegion]) -> Graph:
    """Give the backward pass copies of what lies within segments, made after the gradients of their results.

    Args:
        tape: Traced with marks: every argument of a segment is multiplied with one on its way in, and every result on
            its way out. Multiplied from the right it is the forward pass, from the left the backward.
        segments: The segments, inner ones first.
    """
    graph = _Graph.of(tape)
    marks = {mark for segment in segments for mark in segment.enters | segment.leaves}
    origin = {array: array for array in marks}
    crossed: dict[str, list[str]] = defaultdict(list)
    gradients: dict[str, list[str]] = defaultdict(list)
    passed: dict[str, list[Node]] = defaultdict(list)
    for node in tape.nodes:
        found = [origin.get(array) for array in node.inputs]
        if len(node.inputs) == 1 and node.name in VIEWS | {"AsType"} and found[0] is not None:
            origin[node.outputs[0]] = found[0]
        elif node.name == "Multiply" and found[1] is not None:
            crossed[found[1]].append(node.outputs[0])
            graph.replace(node, attrs.evolve(node, name="Mark", inputs=node.inputs[:1]))
        elif node.name == "Multiply" and found[0] is not None:
            gradients[found[0]].append(node.inputs[1])
            mark = attrs.evolve(node, name="Mark", inputs=node.inputs[1:])
            passed[found[0]].append(mark)
            graph.replace(node, mark)
    for segment in segments:
        if segment.first is not None:
            others = tuple(array for mark in segment.enters - {segment.first} for array in gradients[mark])
            for node in passed[segment.first]:
                graph.replace(node, attrs.evolve(node, name="Depends", inputs=(*node.inputs, *others)))
    for number, segment in enumerate(segments):
        starts = {array for mark in segment.enters for array in crossed[mark]}
        ends = {array for mark in segment.leaves for array in crossed[mark]}
        after = tuple(array for mark in segment.leaves for array in gradients[mark])
        if after:
            graph.copy_segment(starts, ends, after, f"'{number}")
    nodes = _in_order(list({id(node): node for node in graph.made_by.values()}.values()))
    return _without(attrs.evolve(tape, nodes=tuple(nodes), arrays=graph.arrays), frozenset({"Mark"}))


@attrs.define
class _Graph:
    """Operations that can be exchanged: by what they make, and by what they read."""

    arrays: dict[str, Array]
    made_by: dict[str, Node]
    read_by: dict[str, set[str]]

    @classmethod
    def of(cls, tape: Graph) -> "_Graph":
        graph = cls(dict(tape.arrays), {}, defaultdict(set))
        for node in tape.nodes:
            graph.add(node)
        return graph

    def add(self, node: Node) -> None:
        for output in node.outputs:
            self.made_by[output] = node
        for array in node.inputs:
            # By its first result: the operation itself may be exchanged.
            self.read_by[array].add(node.outputs[0])

    def replace(self, old: Node, new: Node) -> None:
        for array in old.inputs:
            self.read_by[array].discard(old.outputs[0])
        self.add(new)

    def between(self, starts: set[str], ends: set[str]) -> set[str]:
        """Find what is made of `starts` on the way to `ends`, both included."""
        above: list[Node] = []
        seen: set[str] = set()
        stack = [(array, False) for array in ends]
        while stack:
            array, is_done = stack.pop()
            node = self.made_by.get(array)
            if node is None:
                continue
            if is_done:
                above.append(node)
            elif node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                stack.append((array, True))
                if array not in starts:
                    stack.extend((given, False) for given in node.inputs)
        entered = set(starts)
        for node in above:
            if not entered.isdisjoint(node.inputs):
                entered.update(node.outputs)
        return entered

    def copy_segment(self, starts: set[str], ends: set[str], after: tuple[str, ...], suffix: str) -> None:
        """Let what reads a segment from outside read copies that are made after some other arrays."""
        inside = self.between(starts, ends)
        wanted: list[str] = []
        for array in inside - ends:
            for reader in list(self.read_by[array]):
                if reader not in inside:
                    node = self.made_by[reader]
                    inputs = tuple(f"{given}{suffix}" if given == array else given for given in node.inputs)
                    self.replace(node, attrs.evolve(node, inputs=inputs))
                    wanted.append(array)
        copied: set[str] = set()
        while wanted:
            node = self.made_by[wanted.pop()]
            if node.outputs[0] in copied:
                continue
            copied.add(node.outputs[0])
            if node.outputs[0] in starts:
                name, own, more = "Depends", node.inputs, after
            else:
                n_own = len(node.outputs) if node.name == "Depends" else len(node.inputs)
                name, own, more = node.name, node.inputs[:n_own], after if node.name == "Depends" else ()
                wanted.extend(array for array in own if array in inside)
            is_start = node.outputs[0] in starts
            inputs = tuple(f"{array}{suffix}" if array in inside and not is_start else array for array in own)
            outputs = tuple(f"{output}{suffix}" for output in node.outputs)
            self.arrays.update({new: self.arrays[old] for new, old in zip(outputs, node.outputs, strict=True)})
            self.add(Node(name, node.arguments, (*inputs, *more), outputs))


def _in_order(nodes: Sequence[Node]) -> list[Node]:
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


def compile_tape(tape: Graph) -> Graph:
    """Do what `mx.compile` does: leave out what does nothing, merge what is equal, fuse elementwise operations."""
    return _fuse(_eliminate_common_subexpressions(_without(tape, frozenset({"Copy", "StopGradient"}))))


def _without(tape: Graph, names: frozenset[str]) -> Graph:
    """Leave out operations that give their first input on as it is."""
    renamed: dict[str, str] = {}
    nodes = []
    for node in tape.nodes:
        inputs = tuple(renamed.get(array, array) for array in node.inputs)
        if node.name in names:
            renamed[node.outputs[0]] = inputs[0]
        else:
            nodes.append(node if inputs == node.inputs else attrs.evolve(node, inputs=inputs))
    outputs = tuple(renamed.get(array, array) for array in tape.outputs)
    return _eliminate_dead_code(attrs.evolve(tape, nodes=tuple(nodes), outputs=outputs))


def _fuse(tape: Graph) -> Graph:
    """Make one operation of elementwise ones whose results nothing else reads."""
    made_by = {array: node for node in tape.nodes for array in node.outputs}
    readers: dict[str, set[int]] = defaultdict(set)
    for node in tape.nodes:
        for array in node.inputs:
            readers[array].add(id(node))
    outputs = set(tape.outputs)
    nodes: list[Node] = []
    done: set[int] = set()
    for root in reversed(tape.nodes):
        if id(root) in done:
            continue
        group, inputs = _find_group(root, tape, made_by, readers, outputs)
        if len(group) < 2:  # noqa: PLR2004 - one operation is no group
            nodes.append(root)
            continue
        done.update(map(id, group))
        made = tuple(array for node in group for array in node.outputs if node is root or array in outputs)
        nodes.append(Node("Compiled", "", tuple(inputs), made))
    return attrs.evolve(tape, nodes=tuple(_in_order(nodes[::-1])))


def _find_group(
    root: Node, tape: Graph, made_by: Mapping[str, Node], readers: Mapping[str, set[int]], outputs: set[str]
) -> tuple[list[Node], list[str]]:
    """Find what is fused into one operation, and what that reads."""
    if root.name not in ELEMENTWISE:
        return [root], []
    shape = tape.arrays[root.outputs[0]].shape
    group: list[Node] = []
    inside: set[int] = set()
    rest: dict[str, None] = {}

    def visit(array: str, depth: int) -> None:
        node = made_by.get(array)
        if node is not None and id(node) in inside:
            return
        is_output = array in outputs and depth > 0
        if (
            node is None
            or depth >= MAX_DEPTH
            or (node.name not in ELEMENTWISE and node.name != "Broadcast")
            or (is_output and tape.arrays[array].shape != shape)
            or (depth > 0 and not readers[array] <= inside)
        ):
            rest[array] = None
            return
        rest.pop(array, None)
        if len(rest) >= MAX_ARRAYS:
            rest[array] = None
            return
        inside.add(id(node))
        group.append(node)
        for given in node.inputs:
            visit(given, depth + 1)

    visit(root.outputs[0], 0)
    made = {array for node in group for array in node.outputs}
    read = dict.fromkeys(array for node in group for array in node.inputs if array not in made)
    return group, list(read)


def _eliminate_common_subexpressions(tape: Graph) -> Graph:
    """Merge operations that compute the same."""
    renamed: dict[str, str] = {}
    seen: dict[tuple[Any, ...], Node] = {}
    nodes = []
    kept = set(tape.outputs)
    for node in tape.nodes:
        inputs = tuple(renamed.get(array, array) for array in node.inputs)
        node = node if inputs == node.inputs else attrs.evolve(node, inputs=inputs)  # noqa: PLW2901
        shapes = tuple(tape.arrays[output] for output in node.outputs)
        key = (node.name, node.arguments, inputs, shapes)
        twin = seen.setdefault(key, node) if inputs and kept.isdisjoint(node.outputs) else node
        if twin is node:
            nodes.append(node)
        else:
            renamed.update(zip(node.outputs, twin.outputs, strict=True))
    return _eliminate_dead_code(attrs.evolve(tape, nodes=tuple(nodes)))


def _eliminate_dead_code(tape: Graph) -> Graph:
    """Leave out what no output needs."""
    needed = set(tape.outputs)
    nodes = []
    for node in reversed(tape.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    return attrs.evolve(tape, nodes=tuple(reversed(nodes)))


def schedule(tape: Graph) -> list[Node]:
    """Put the operations into the order in which MLX runs them.

    It goes through the graph breadth first from the outputs, as long as no more than `MAX_WIDTH` operations are lined
    up, then in depth, and runs what it found from the end.
    """
    made_by = {array: node for node in tape.nodes for array in node.outputs}
    degrees: Counter[int] = Counter()
    root = Node("Outputs", "", tape.outputs, ())
    for node in (*tape.nodes, root):
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
