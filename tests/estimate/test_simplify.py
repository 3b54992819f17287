"""What `mx.compile` makes of a graph."""

from tests.estimate.test_liveness import graph_of
from vlora.estimate.graph import schedule
from vlora.estimate.simplify import compile_graph


def test_compiling_merges_and_fuses() -> None:
    """Equal operations become one, elementwise ones too; what is read elsewhere keeps its own."""
    graph = graph_of(
        ("Exp", "a", "b"), ("Exp", "a", "c"), ("Add", "bc", "d"), ("Sin", "d", "e"), ("Matmul", "de", "f"), outputs="f"
    )
    names = [node.name for node in schedule(compile_graph(graph))]

    assert sorted(names) == ["Compiled", "Matmul", "Sin"]
    assert names[-1] == "Matmul"
