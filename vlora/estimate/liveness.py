"""The peak memory of a graph, found without computing anything. Pure.

Shapes, strides and the order of the operations decide which results are views, which reuse the buffer of an input after
its last use, and when a buffer is free.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

import attrs

from .graph import ELEMENTWISE, VIEWS, Array, Graph, Node, schedule
from .strides import is_dense, is_matrix, is_row_by_row, reshaped_strides, row_strides

DONATING_OPS = ELEMENTWISE | {
    *("Compiled", "LayerNorm", "RMSNorm", "RoPE", "Scan", "Scatter", "ScatterAxis", "SliceUpdate", "Softmax"),
}
"""Operations whose result reuses the buffer of an input of the same size after its last use."""

N_DISPATCHES = {"AddMM": 2, "Pad": 2, "Scatter": 2, "ScatterAxis": 2, "SliceUpdate": 2}
"""Parts of operations that first copy what they add to or write into; others have one part."""


@attrs.frozen(kw_only=True)
class Peak:
    """The moment of a graph's peak memory.

    Attributes:
        nbytes: Bytes in use then, kept inputs included.
        held: Those of kept inputs among them.
        alive: (array's name, bytes) of each other buffer.
    """

    nbytes: int
    held: int
    alive: tuple[tuple[str, int], ...]


@attrs.frozen(kw_only=True)
class Queue:
    """How far MLX runs ahead of its device. Inputs of a queued operation are kept until it has run.

    Attributes:
        n_operations: Operations of a command buffer; one more ends it.
        n_elements: Numbers that they read together; more end it.
        n_tasks: Most command buffers in flight, including the one that is being filled.
        limit: Bytes in use beyond which MLX waits for committed command buffers before it goes on.
        counts_buffers: Whether each array, outputs included, counts once per command buffer; else each input counts.
        n_dispatches: Where it is not 0, a command buffer ends after so many dispatches (see `count_dispatches`), and
            operations and numbers do not count.
    """

    n_operations: int = 1
    n_elements: int = 2**62
    n_tasks: int = 0
    limit: int = 2**62
    counts_buffers: bool = False
    n_dispatches: int = 0


def count_dispatches(node: Node) -> int:
    """Count what MLX queues on a CPU for an operation that makes an array: its parts, and what frees its inputs."""
    if node.name == "Concatenate":
        return len(node.inputs) + 1
    return 1 + N_DISPATCHES.get(node.name, 1)


@attrs.define(eq=False)
class _Buffer:
    name: str
    nbytes: int
    users: int = 0
    last_read: int = -(10**9)
    is_held: bool = False


@attrs.define(eq=False)
class _Layout:
    """Memory layout of an array: its buffer, its strides in elements, and its number of elements.

    Elements repeated along a dimension are stored and counted once (MLX's data_size).
    """

    buffer: _Buffer
    strides: tuple[int, ...]
    size: int


def peak_memory(
    graph: Graph, *, held: Iterable[str] = (), queue: Queue | None = None, copies_for_matmul: bool = True
) -> Peak:
    """Find the peak memory of a graph.

    Args:
        graph: The operations.
        held: Inputs that are kept; the others are freed after their last use.
        queue: How far MLX runs ahead; None for not at all.
        copies_for_matmul: Whether matrices that are not row-contiguous are copied before a product.
    """
    order = schedule(graph)
    memory = _Memory(graph.arrays, _count_uses(order, graph.outputs), queue or Queue())
    made = {array for node in order for array in node.outputs}
    # Constants that are not among the inputs are included.
    given = dict.fromkeys((*graph.inputs, *(array for node in order for array in node.inputs if array not in made)))
    memory.place_inputs(list(given), frozenset(held))
    for node in order:
        memory.run(node, copies_for_matmul=copies_for_matmul)
    return memory.fullest


def _count_uses(order: Sequence[Node], outputs: Sequence[str]) -> Counter[str]:
    uses = Counter(array for node in order for array in node.inputs)
    uses.update(outputs)
    return uses


@attrs.define(eq=False)
class _Memory:
    """Tracks the memory in use while a graph runs."""

    arrays: Mapping[str, Array]
    uses: Counter[str]
    queue: Queue
    fullest: Peak = Peak(nbytes=0, held=0, alive=())
    _layouts: dict[str, _Layout] = attrs.field(factory=dict, init=False)
    _alive: dict[int, _Buffer] = attrs.field(factory=dict, init=False)
    # The command buffer whose end frees an array's buffer, and that buffer.
    _pending_release: deque[tuple[int, _Buffer]] = attrs.field(factory=deque, init=False)
    _total: int = attrs.field(default=0, init=False)
    _held: int = attrs.field(default=0, init=False)
    # The command buffer that is being filled, the last one that can be waited for, the last one that is done.
    _task: int = attrs.field(default=0, init=False)
    _waited_for: int = attrs.field(default=-1, init=False)
    _done: int = attrs.field(default=-1, init=False)
    _counted: set[int] = attrs.field(factory=set, init=False)
    _n_operations: int = attrs.field(default=0, init=False)
    _n_dispatches: int = attrs.field(default=0, init=False)
    _n_elements: int = attrs.field(default=0, init=False)

    def place_inputs(self, inputs: Sequence[str], held: frozenset[str]) -> None:
        for array in inputs:
            if not self.uses[array] and array not in held:
                continue
            buffer = self._allocate(array, self.arrays[array].nbytes)
            buffer.is_held = array in held
            self._held += buffer.nbytes * buffer.is_held
            self._keep(array, buffer, row_strides(self.arrays[array].shape))
        self._note()

    def run(self, node: Node, *, copies_for_matmul: bool) -> None:
        view = _view_strides(node, self.arrays, self._layouts)
        if view is not None:
            for number, (output, strides) in enumerate(zip(node.outputs, view, strict=True)):
                source = self._layouts[node.inputs[number if node.name == "Depends" else 0]]
                if self.uses[output]:
                    size = _view_size(node, self.arrays[output].shape, strides, source.size)
                    self._keep(output, source.buffer, strides, size)
            self._dispatch(node.name != "Mark")
        else:
            copied = self._find_copied(node) if copies_for_matmul else ()
            self._dispatch(count_dispatches(node) + len(copied))
            self._copy_matrices(copied)
            self._count(node.inputs)
            self._make(node)
            self._note()
            self._n_operations += 1
        for array in node.inputs:
            self._forget(array)
        self._commit()

    def _make(self, node: Node) -> None:
        taken = self._donated_buffer(node)
        for array in node.inputs:
            # MLX keeps what a queued operation reads, except for the buffer that its result takes over.
            if (buffer := self._layouts[array].buffer) is not taken:
                buffer.last_read = self._task
        for output in node.outputs:
            made = taken or self._allocate(output, self.arrays[output].nbytes)
            taken = None
            self._keep(output, made, self._result_strides(node, self.arrays[output].shape))
            if self.queue.counts_buffers:
                self._count([output])
            if not self.uses[output]:
                self.uses[output] = 1
                self._forget(output)

    def _find_copied(self, node: Node) -> list[str]:
        """Find the matrices that are copied before a product."""
        factors = node.inputs[:2] if node.name in ("Matmul", "AddMM") else ()
        return [name for name in factors if not is_matrix(self.arrays[name].shape, self._layouts[name].strides)]

    def _copy_matrices(self, copied: Iterable[str]) -> None:
        for array in copied:
            buffer = self._allocate(array, self.arrays[array].nbytes)
            self._pending_release.append((self._task, buffer))
            self._count([array])
            self._n_operations += 1

    def _allocate(self, name: str, nbytes: int) -> _Buffer:
        buffer = _Buffer(name, nbytes)
        self._alive[id(buffer)] = buffer
        self._total += nbytes
        return buffer

    def _keep(self, array: str, buffer: _Buffer, strides: tuple[int, ...], size: int | None = None) -> None:
        buffer.users += 1
        self._layouts[array] = _Layout(buffer, strides, math.prod(self.arrays[array].shape) if size is None else size)

    def _forget(self, array: str) -> None:
        self.uses[array] -= 1
        if not self.uses[array]:
            buffer = self._layouts.pop(array).buffer
            buffer.users -= 1
            if not buffer.users and not buffer.is_held:
                self._pending_release.append((self._task, buffer))

    def _count(self, arrays: Iterable[str]) -> None:
        """Add elements to the command buffer that is being filled."""
        for array in arrays:
            layout = self._layouts[array]
            if not self.queue.counts_buffers or id(layout.buffer) not in self._counted:
                self._n_elements += layout.size
            self._counted.add(id(layout.buffer))

    def _dispatch(self, n: int) -> None:
        """Count the dispatches of an operation; the last of them keeps what it reads until it has run."""
        if self.queue.n_dispatches:
            self._n_dispatches += n
            self._task = max(0, self._n_dispatches - 1) // self.queue.n_dispatches

    def _commit(self) -> None:
        """Start a new command buffer if this one is full; wait if too many buffers or bytes are in use."""
        if self.queue.n_dispatches:
            n_committed = self._n_dispatches // self.queue.n_dispatches
            self._waited_for = n_committed - 1
            self._free(n_committed - self.queue.n_tasks)
            while self._total > self.queue.limit and self._done < self._waited_for:
                self._free(self._done + 1)
            return
        if self._n_operations > self.queue.n_operations or self._n_elements > self.queue.n_elements:
            self._waited_for = self._task
            self._begin_command_buffer()
        self._free(self._task - self.queue.n_tasks)
        if self._total > self.queue.limit and self._done < self._waited_for:
            # The partly filled buffer is committed too, but MLX does not wait for it.
            self._begin_command_buffer()
            while self._total > self.queue.limit and self._done < self._waited_for:
                self._free(self._done + 1)

    def _begin_command_buffer(self) -> None:
        self._task += 1
        self._n_operations = self._n_elements = 0
        self._counted.clear()

    def _free(self, done: int) -> None:
        """Free buffers that only completed command buffers had to read."""
        self._done = max(self._done, done)
        while self._pending_release and self._pending_release[0][0] <= self._done:
            _, buffer = self._pending_release.popleft()
            self._total -= buffer.nbytes
            del self._alive[id(buffer)]

    def _note(self) -> None:
        if self._total > self.fullest.nbytes:
            alive = tuple((buffer.name, buffer.nbytes) for buffer in self._alive.values() if not buffer.is_held)
            self.fullest = Peak(nbytes=self._total, held=self._held, alive=alive)

    def _donated_buffer(self, node: Node) -> _Buffer | None:
        """Find the input whose buffer the result may reuse; operations with several results reuse none."""
        if node.name not in DONATING_OPS or len(node.outputs) > 1:
            return None
        wanted = self.arrays[node.outputs[0]]
        for name in node.inputs:
            array, layout = self.arrays[name], self._layouts[name]
            buffer = layout.buffer
            is_last = self.uses[name] == node.inputs.count(name) and buffer.users == 1 and not buffer.is_held
            fits = array.nbytes == buffer.nbytes == wanted.nbytes and array.itemsize == wanted.itemsize
            is_read = buffer.last_read > self._done
            if is_last and fits and not is_read and is_dense(array.shape, layout.strides):
                return buffer
        return None

    def _result_strides(self, node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Strides of a new array: those of its inputs for an elementwise result, else row-contiguous ones."""
        if node.name in DONATING_OPS:
            for name in node.inputs:
                strides = self._layouts[name].strides
                if self.arrays[name].shape == shape and is_dense(shape, strides):
                    return strides
        return row_strides(shape)


def _view_strides(
    node: Node, arrays: Mapping[str, Array], layouts: Mapping[str, _Layout]
) -> list[tuple[int, ...]] | None:
    """Strides of a view's results; None if the operation makes a new array."""
    if node.name not in VIEWS or not node.inputs:
        return None
    shape, strides = arrays[node.inputs[0]].shape, layouts[node.inputs[0]].strides
    results = [arrays[output].shape for output in node.outputs]
    moved: tuple[int, ...] | None
    if node.name in ("Mark", "Depends", "StopGradient", "Copy", "View"):
        return [layouts[array].strides for array in node.inputs[: len(results)]]
    if node.name in ("Slice", "Split"):
        return [strides] * len(results)
    if node.name in ("Broadcast", "BroadcastAxes"):
        own = [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
        moved = (*[0] * (len(results[0]) - len(shape)), *own)
    elif node.name == "Transpose":
        moved = tuple(strides[int(axis)] for axis in node.arguments.strip("[]()").split(",") if axis.strip())
    elif node.name == "Contiguous" and not is_row_by_row(shape, strides):
        moved = None
    else:
        moved = reshaped_strides(shape, strides, results[0])
    return None if moved is None else [moved]


def _view_size(node: Node, shape: Sequence[int], strides: Sequence[int], source: int) -> int:
    """Count the elements of a view as MLX does: those of its source, except for slices."""
    if node.name == "Slice":
        return math.prod(shape) and 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if node.name == "Split":
        return math.prod(size for size, stride in zip(shape, strides, strict=True) if stride)
    return source
