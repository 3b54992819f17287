"""Recomputation put into a graph that was traced without it."""

from tests.estimate.test_liveness import graph_of
from vlora.estimate.rematerialize import RematRegion, rematerialize

FORWARD = (("Multiply", "xm", "a"), ("Sin", "a", "b"), ("Multiply", "bn", "c"))
"""A region from mark m to mark n: sin(x)."""
BACKWARD = (("Multiply", "ng", "d"), ("Multiply", "db", "e"), ("Multiply", "me", "f"))
"""Its gradient, which reads b."""


def test_what_a_gradient_reads_runs_again() -> None:
    """After the gradient of the region's result has arrived; marks are gone, and so is the first run's result."""
    graph = graph_of(*FORWARD, *BACKWARD, ("Sum", "c", "h"), outputs="fh")
    found = rematerialize(graph, [RematRegion(enters=frozenset("m"), leaves=frozenset("n"))])
    sines = [node for node in found.nodes if node.name == "Sin"]
    product = next(node for node in found.nodes if node.name == "Multiply")

    assert len(sines) == 2
    assert "Mark" not in {node.name for node in found.nodes}
    assert product.inputs[1] == next(node.outputs[0] for node in sines if node.outputs[0] != "b")
    # The copy reads its argument only once the gradient is there.
    again = next(node for node in sines if node.outputs[0] != "b")
    assert [node.inputs for node in found.nodes if again.inputs[0] in node.outputs] == [("x", "g")]


def test_a_checkpoint_waits_for_its_results() -> None:
    """All arguments begin anew together, behind what it returned and before any gradient is there, as MLX has it."""
    forward = (("Multiply", "xm", "a"), ("Multiply", "yk", "o"), ("Matmul", "ao", "b"), ("Multiply", "bn", "c"))
    backward = (("Multiply", "ng", "d"), ("Add", "do", "e"), ("Add", "ea", "h"), ("Multiply", "mh", "f"))
    graph = graph_of(*forward, *backward, ("Sum", "c", "s"), outputs="fs")
    region = RematRegion(enters=frozenset("mk"), leaves=frozenset("n"), waits="results")
    (again,) = (node for node in rematerialize(graph, [region]).nodes if node.name == "Depends")

    assert {*again.inputs[:2]} == {"x", "y"}
    assert again.inputs[2:] == ("b",)
    assert len(again.outputs) == 2


def test_a_region_without_a_gradient_runs_once() -> None:
    """Nothing behind it asks for one."""
    graph = graph_of(*FORWARD, outputs="c")
    found = rematerialize(graph, [RematRegion(enters=frozenset("m"), leaves=frozenset("n"))])

    assert [node.name for node in found.nodes] == ["Sin"]
    assert found.outputs == ("b",)
