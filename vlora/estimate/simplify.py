"""The passes of `mx.compile`: dead code elimination, common subexpression elimination, elementwise fusion. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import attrs

from .graph import ELEMENTWISE, Graph, Node, topological_order

MAX_DEPTH, MAX_ARRAYS = 11, 24
"""Limits of MLX's fusion: depth, and arrays that a fused operation reads (max_compile_depth, max_compile_arrays)."""


def compile_graph(graph: Graph) -> Graph:
    """Apply the passes of `mx.compile`: remove dead operations, merge equal ones, fuse elementwise ones."""
    return _fuse(_eliminate_common_subexpressions(bypass(graph, frozenset({"Copy", "StopGradient"}))))


def bypass(graph: Graph, names: frozenset[str]) -> Graph:
    """Remove operations that return their first input unchanged."""
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(array, array) for array in node.inputs)
        if node.name in names:
            renamed[node.outputs[0]] = inputs[0]
        else:
            nodes.append(node if inputs == node.inputs else attrs.evolve(node, inputs=inputs))
    outputs = tuple(renamed.get(array, array) for array in graph.outputs)
    return _eliminate_dead_code(attrs.evolve(graph, nodes=tuple(nodes), outputs=outputs))


def _fuse(graph: Graph) -> Graph:
    """Fuse elementwise operations whose results no other operation reads."""
    made_by = {array: node for node in graph.nodes for array in node.outputs}
    readers: dict[str, set[int]] = defaultdict(set)
    for node in graph.nodes:
        for array in node.inputs:
            readers[array].add(id(node))
    outputs = set(graph.outputs)
    nodes: list[Node] = []
    done: set[int] = set()
    for root in reversed(graph.nodes):
        if id(root) in done:
            continue
        group, inputs = _find_group(root, graph, made_by, readers, outputs)
        if len(group) < 2:  # noqa: PLR2004 - one operation is no group
            nodes.append(root)
            continue
        done.update(map(id, group))
        made = tuple(array for node in group for array in node.outputs if node is root or array in outputs)
        nodes.append(Node("Compiled", "", tuple(inputs), made))
    return attrs.evolve(graph, nodes=tuple(topological_order(nodes[::-1])))


def _find_group(
    root: Node, graph: Graph, made_by: Mapping[str, Node], readers: Mapping[str, set[int]], outputs: set[str]
) -> tuple[list[Node], list[str]]:
    """Find the operations that are fused into one, and the arrays that it reads."""
    if root.name not in ELEMENTWISE:
        return [root], []
    shape = graph.arrays[root.outputs[0]].shape
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
            or (is_output and graph.arrays[array].shape != shape)
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


def _eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Merge operations that compute the same."""
    renamed: dict[str, str] = {}
    seen: dict[tuple[Any, ...], Node] = {}
    nodes = []
    kept = set(graph.outputs)
    for node in graph.nodes:
        inputs = tuple(renamed.get(array, array) for array in node.inputs)
        node = node if inputs == node.inputs else attrs.evolve(node, inputs=inputs)  # noqa: PLW2901
        shapes = tuple(graph.arrays[output] for output in node.outputs)
        key = (node.name, node.arguments, inputs, shapes)
        twin = seen.setdefault(key, node) if inputs and kept.isdisjoint(node.outputs) else node
        if twin is node:
            nodes.append(node)
        else:
            renamed.update(zip(node.outputs, twin.outputs, strict=True))
    return _eliminate_dead_code(attrs.evolve(graph, nodes=tuple(nodes)))


def _eliminate_dead_code(graph: Graph) -> Graph:
    """Remove operations that no output needs."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    return attrs.evolve(graph, nodes=tuple(reversed(nodes)))
