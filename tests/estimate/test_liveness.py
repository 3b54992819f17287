"""Buffers of a graph: which are shared, which are taken over, and until when the device holds them."""

from typing import Any

import attrs
import mlx.core as mx

from vlora.estimate.graph import Array, Graph, Node
from vlora.estimate.liveness import Queue, peak_memory


def graph_of(*lines: tuple[str, str, str], outputs: str, size: int = 4) -> Graph:
    """Write a graph of arrays of one size: (operation, what it reads, what it gives)."""
    nodes = tuple(Node(name, "", tuple(given), (made,)) for name, given, made in lines)
    names = {array for node in nodes for array in (*node.inputs, *node.outputs)}
    made = {array for node in nodes for array in node.outputs}
    return Graph(
        arrays={name: Array((size, size), 4) for name in names},
        nodes=nodes,
        inputs=tuple(sorted(names - made)),
        outputs=tuple(outputs),
    )


def test_buffers_are_taken_over_and_given_up() -> None:
    """An elementwise chain has one buffer; a product needs one of its own; what is queued holds on to what it reads."""
    one = 4 * 4 * 4
    chain = graph_of(("Exp", "a", "b"), ("Sin", "b", "c"), ("Cos", "c", "d"), outputs="d")
    products = graph_of(("Matmul", "ab", "c"), ("Matmul", "cb", "d"), ("Matmul", "db", "e"), outputs="e")

    assert peak_memory(chain).nbytes == one
    assert peak_memory(chain, held="a").nbytes == 2 * one
    assert peak_memory(products, held="ab").nbytes == 4 * one
    assert peak_memory(products, held="ab", queue=Queue(n_tasks=9)).nbytes == 5 * one
    assert peak_memory(products, held="ab", queue=Queue(n_tasks=9, limit=0)).nbytes == 4 * one


def test_command_buffers_are_counted_as_mlx_does() -> None:
    """A command buffer ends after so many operations or numbers: all that is read, or, on a Mac, each array once."""
    lines = [("Matmul", "ab", "c"), ("Matmul", "cb", "d"), ("Matmul", "db", "e"), ("Matmul", "eb", "f")]
    graph = graph_of(*lines, outputs="f")
    one, size = 4 * 4 * 4, 4 * 4

    def buffers(**queue: Any) -> int:
        return peak_memory(graph, held="ab", queue=Queue(n_tasks=1, **queue)).nbytes // one

    # c, d and e wait for the end of their command buffer.
    assert buffers(n_operations=9) == 6
    assert buffers(n_operations=1) == buffers(n_operations=9, n_elements=3 * size) == 5
    assert buffers(n_operations=0) == buffers(n_operations=9, n_elements=size) == 4
    # The first knows a, b and c, each one after it one more.
    assert buffers(n_operations=9, n_elements=3 * size, counts_buffers=True) == 5
    assert buffers(n_operations=9, n_elements=5 * size, counts_buffers=True) == 6


def test_what_is_repeated_is_counted_once() -> None:
    """A number that was broadcast is one number that is read; half of a matrix is half of it."""
    shapes = {"a": (4, 4), "one": (1,), "many": (4, 4), "top": (2, 4), "low": (2, 4)}
    shapes |= dict.fromkeys("xyz", (4, 4))
    nodes = (
        Node("Broadcast", "", ("one",), ("many",)),
        Node("Split", "", ("a",), ("top", "low")),
        Node("ScatterAxis", "", ("many", "top", "low"), ("x",)),
        Node("Matmul", "", ("x", "a"), ("y",)),
        Node("Matmul", "", ("y", "a"), ("z",)),
    )
    graph = Graph(
        arrays={name: Array(shape, 4) for name, shape in shapes.items()},
        nodes=nodes,
        inputs=("a", "one"),
        outputs=("z",),
    )
    held = 4 * 4 * 4 + 4

    # Read are 1 + 8 + 8 numbers, then 32.
    queues = [Queue(n_operations=9, n_elements=most, n_tasks=1) for most in (17 + 32, 17 + 31)]
    waiting, done = (peak_memory(graph, held=("a", "one"), queue=queue).nbytes - held for queue in queues)

    assert (waiting, done) == (3 * 64, 2 * 64)


def test_a_limit_does_not_drain_the_command_buffer_that_is_being_filled() -> None:
    """MLX waits for committed command buffers; what the one that it fills reads stays all the same."""
    lines = [("Matmul", f"{made}z", after) for made, after in zip("abcdefg", "bcdefgh", strict=True)]
    graph = graph_of(*lines, outputs="h")
    one = 4 * 4 * 4

    def buffers(n_operations: int, limit: int) -> int:
        queue = Queue(n_operations=n_operations, n_tasks=3, limit=limit)
        return peak_memory(graph, held="az", queue=queue).nbytes // one

    # What a buffer of two reads and gives; without a limit, two buffers more; at once, nothing is waited for.
    assert buffers(1, limit=0) == 2 + 3
    assert buffers(1, limit=2**62) == 2 + 6
    assert buffers(9, limit=0) == 2 + 7


def test_several_results_take_over_nothing() -> None:
    """MLX lets each of several results hold on to all inputs, so a fused operation with two takes buffers of its own.

    An update of weights and moments is such an operation: the old ones are there until it has run.
    """
    one = 4 * 4 * 4
    single = graph_of(("Compiled", "ab", "c"), outputs="c")
    double = attrs.evolve(single, nodes=(Node("Compiled", "", ("a", "b"), ("c", "d")),), outputs=("c", "d"))
    double = attrs.evolve(double, arrays={**double.arrays, "d": Array((4, 4), 4)})

    def measure(make: Any) -> float:
        mx.eval(given := [mx.random.normal((2**18,), key=mx.random.key(number)) for number in range(2)])
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        made = make(given.pop(), given.pop())
        mx.eval(made)
        return max(0, mx.get_peak_memory() - before) / 2**20

    fused = [mx.compile(lambda a, b: mx.exp(a) * b + 1), mx.compile(lambda a, b: (mx.exp(a) * b, mx.sin(b) + a))]
    for function in fused:
        # Traced beforehand.
        measure(function)

    assert [peak_memory(graph).nbytes // one for graph in (single, double)] == [2, 4]
    assert [round(measure(function)) for function in fused] == [0, 2]
