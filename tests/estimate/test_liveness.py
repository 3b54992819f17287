"""Buffers of a graph: which are shared, which are taken over, and until when the device holds them."""

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import mlx.core as mx
import pytest

from vlora.estimate.graph import VIEWS, Array, Graph, Node
from vlora.estimate.liveness import Queue, count_dispatches, peak_memory
from vlora.estimate.planner import find_queue
from vlora.recipe.resources import MemorySection


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


def test_a_result_in_the_buffer_of_an_input_leaves_it_free_for_the_next() -> None:
    """A queued operation holds on to what it reads, but not to the buffer that its result has taken over."""
    chain = graph_of(("Matmul", "ab", "c"), ("Select", "cm", "d"), ("Softmax", "d", "e"), outputs="e")
    read_twice = graph_of(("Matmul", "ab", "c"), ("Exp", "c", "d"), ("Multiply", "cd", "e"), outputs="e")
    one, queue = 4 * 4 * 4, Queue(n_operations=9, n_tasks=9)

    assert peak_memory(chain, held="abm", queue=queue).nbytes == 4 * one
    # The product cannot have c, which is still read, and takes d.
    assert peak_memory(read_twice, held="ab", queue=queue).nbytes == 4 * one


def test_arrays_that_wait_together_keep_their_own_buffers() -> None:
    """What several arrays become that wait for one is each of them, and not the first."""
    names = ("a", "b", "c", "d", "e")
    graph = Graph(
        arrays={name: Array((4, 4), 4) for name in names},
        nodes=(Node("Depends", "", ("a", "b"), ("c", "d")), Node("Matmul", "", ("d", "d"), ("e",))),
        inputs=("a", "b"),
        outputs=("c", "e"),
    )

    # b is read last, and free behind the product; a is a result.
    assert peak_memory(graph).nbytes == 3 * 64
    assert peak_memory(attrs.evolve(graph, outputs=("e",))).nbytes == 2 * 64


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="counts what MLX queues on a CPU")
@pytest.mark.parametrize(
    ("name", "n_dispatches", "operation"),
    [
        ("Exp", 2, lambda x, _: mx.exp(x)),
        ("Matmul", 2, lambda x, y: x @ y),
        ("AddMM", 3, lambda x, y: mx.addmm(y, x, y)),
        ("Concatenate", 3, lambda x, y: mx.concatenate([x, y])),
        ("Depends", 1, lambda x, y: mx.depends([x], [y])[0]),
    ],
)
def test_dispatches_are_those_of_mlx(
    name: str, n_dispatches: int, operation: Callable[[mx.array, mx.array], mx.array]
) -> None:
    """MLX runs no more dispatches ahead than the queue says: a large array is free behind so many of an operation."""
    node = Node(name, "", ("x", "y"), ("z",))
    queue = find_queue(MemorySection())
    size, small = 2**22, mx.ones((8, 8))
    # A slice follows each concatenation.
    n_operations = -(-queue.n_tasks * queue.n_dispatches // (n_dispatches + (name == "Concatenate")))
    mx.eval(small)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = small + mx.full((size,), small[0, 0]).sum()
    for _ in range(n_operations):
        found = operation(found, small)[:8] if name == "Concatenate" else operation(found, small)
    mx.eval(mx.full((size,), found[0, 0]).sum())

    assert (1 if name in VIEWS else count_dispatches(node)) == n_dispatches
    assert mx.get_peak_memory() - before < 1.5 * 4 * size


def test_a_queue_of_dispatches_frees_what_lies_behind_it() -> None:
    """A command buffer of four dispatches takes two products, or one and a third of those that add up."""
    one, names = 4 * 4 * 4, "abcdefghijklmnopq"

    def n_kept(name: str, factors: str, n_tasks: int) -> int:
        lines = [(name, f"{made}{factors}", after) for made, after in itertools.pairwise(names)]
        graph = graph_of(*lines, outputs=names[-1])
        return peak_memory(graph, held="az", queue=Queue(n_dispatches=4, n_tasks=n_tasks)).nbytes // one - 2

    # What is made, and what those read that may wait.
    assert [n_kept("Matmul", "z", n_tasks) for n_tasks in (1, 3)] == [3, 7]
    assert [n_kept("AddMM", "zz", n_tasks) for n_tasks in (1, 3)] == [3, 6]


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
