"""The order in which MLX runs the operations of a graph."""

import attrs

from tests.estimate.test_liveness import graph_of
from vlora.estimate.graph import schedule, topological_order


def test_operations_run_after_what_they_read() -> None:
    """However they are listed."""
    graph = graph_of(("Exp", "a", "b"), ("Matmul", "bb", "c"), ("Add", "bc", "d"), outputs="d")
    shuffled = attrs.evolve(graph, nodes=graph.nodes[::-1])

    assert [node.outputs[0] for node in topological_order(shuffled.nodes)] == ["b", "c", "d"]
    assert [node.outputs[0] for node in schedule(shuffled)] == ["b", "c", "d"]


def test_what_no_output_needs_does_not_run() -> None:
    """It is found from the outputs."""
    graph = graph_of(("Exp", "a", "b"), ("Sin", "a", "c"), outputs="b")

    assert [node.name for node in schedule(graph)] == ["Exp"]
