"""Rebuilds fused kernels of MLX from their names, so that they can be compiled before a run needs them.

`mx.compile` fuses elementwise operations into kernels that it compiles when they first run, one after another under a
lock (1.5 s of g++ each on a CPU, four to five seconds of NVRTC on an NVIDIA GPU). Here the expression of a kernel is
rebuilt from its name over tiny arrays. MLX then compiles the same kernel: its file has the same name.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from .kernel_names import INDEXING, Kernel, Node, UnknownNameError, parse_name
from .operations import BINARY, TERNARY, UNARY


def rebuild(name: str, constants: Sequence[tuple[mx.Dtype, float]]) -> tuple[Callable[..., Any], list[mx.array]]:
    """Return a compiled function and arrays for which MLX compiles the kernel of a name.

    Args:
        name: As MLX names it.
        constants: The kernel's constants, in order.

    Returns:
        The function, and its arguments; no array has more than a few numbers.

    Raises:
        UnknownNameError: The name is not known here, or has another number of constants.
    """
    kernel = parse_name(name)
    if kernel.kinds.count("C") != len(constants):
        raise UnknownNameError(name)
    given, held = iter(kernel.dtypes), iter(constants)
    shapes = _shapes(kernel)
    is_strided = kernel.n_axes is not None
    leaves: list[mx.array | None] = []
    arguments: list[mx.array] = []
    for place, kind in enumerate(kernel.kinds):
        if kind == "C":
            dtype, value = next(held)
            leaves.append(mx.array(value, dtype))
            continue
        leaves.append(None)
        arguments.append(_make_array(shapes[place] if kind == "V" else (), next(given), is_strided=is_strided))
    mx.eval(arguments, [leaf for leaf in leaves if leaf is not None])

    def run(*arrays: mx.array) -> list[mx.array]:
        passed = iter(arrays)
        values = [next(passed) if leaf is None else leaf for leaf in leaves]
        for node in kernel.nodes:
            values.append(_apply(node, [values[place] for place in node.inputs], shapes[len(values)]))
        return [values[len(leaves) + at] for at, node in enumerate(kernel.nodes) if node.is_output]

    return mx.compile(run, shapeless=kernel.is_shapeless), arguments


def make_kernel(name: str, constants: Sequence[tuple[mx.Dtype, float]]) -> None:
    """Run the kernel of a name once, so that MLX compiles it or loads it.

    Raises:
        UnknownNameError: The name is not known here.
    """
    if (found := INDEXING.fullmatch(name)) is not None:
        mx.eval(_index(found))
        return
    function, arrays = rebuild(name, constants)
    mx.eval(function(*arrays))


def _shapes(kernel: Kernel) -> list[tuple[int, ...]]:
    """Assign a shape to every input and node: that of the outputs, and a smaller one before each broadcast."""
    n_axes = kernel.n_axes or 1
    if kernel.is_shapeless:
        # Every operation on two arrays broadcasts them.
        shape = _shape(0, n_axes, 0) if "V" in kernel.kinds else ()
        return [*(shape if kind == "V" else () for kind in kernel.kinds), *[shape] * len(kernel.nodes)]
    groups = _group(kernel)
    n_inputs = len(kernel.kinds)
    scalar = {groups[place] for place, kind in enumerate(kernel.kinds) if kind != "V"}
    levels = [0] * len(groups)
    # Backwards: the input of a broadcast is smaller than everything computed from its result.
    for at, node in reversed(list(enumerate(kernel.nodes))):
        if node.operation == "Broadcast":
            source, made = groups[node.inputs[0]], groups[n_inputs + at]
            levels[source] = max(levels[source], levels[made] + 1)
    return [() if group in scalar else _shape(levels[group], n_axes, max(levels)) for group in groups]


def _group(kernel: Kernel) -> list[int]:
    """Group inputs and nodes by shape: members of a group have no broadcast between them, or are outputs."""
    n_inputs = len(kernel.kinds)
    last = n_inputs + len(kernel.nodes) - 1
    groups = list(range(last + 1))
    for at, node in enumerate(kernel.nodes, n_inputs):
        alike = () if node.operation == "Broadcast" else node.inputs
        for place in (*alike, last) if node.is_output else alike:
            one, other = groups[place], groups[at]
            groups = [other if group == one else group for group in groups]
    return groups


def _shape(level: int, n_axes: int, deepest: int) -> tuple[int, ...]:
    """Return a shape that broadcasts to those of lower levels, and whose axes MLX cannot collapse."""
    if level == 0:
        return (*[1] * deepest, *[2] * n_axes)
    if level == 1 and n_axes > 1:
        return (*[1] * deepest, *(2 - axis % 2 for axis in range(n_axes)))
    return (1,) * (deepest + n_axes - level + (n_axes > 1))


def _make_array(shape: tuple[int, ...], dtype: mx.Dtype, *, is_strided: bool) -> mx.array:
    """Make an array of ones, contiguous or strided."""
    if not is_strided:
        return mx.ones(shape, dtype)
    wide = mx.ones([2 * length if length > 1 else length for length in shape], dtype)
    mx.eval(wide)
    return wide[tuple(slice(None, None, 2) if length > 1 else slice(None) for length in shape)]


def _apply(node: Node, inputs: Sequence[mx.array], shape: tuple[int, ...]) -> mx.array:
    if node.operation == "AsType":
        return inputs[0].astype(node.dtype)
    if node.operation == "Broadcast":
        return mx.broadcast_to(inputs[0], shape) if len(inputs) == 1 else inputs[0]
    result: mx.array = {**UNARY, **BINARY, **TERNARY}[node.operation](*inputs)
    return result


def _index(found: re.Match[str]) -> mx.array:
    """Read or write a tiny array by indices, with the kernel of a name."""
    dtype = mx.bool_ if found["dtype"] == "bool" else getattr(mx, found["dtype"])
    n_indices = int(found["n_indices"] or 1)
    source = mx.ones([2] * n_indices, dtype)
    indices = mx.zeros(2, getattr(mx, found["index"]))
    axes = (indices,) * n_indices
    if found["what"] == "gather":
        return source[axes]
    if found["what"] == "gather_axis":
        return mx.take_along_axis(source, indices, axis=0)
    updates = mx.ones(2, dtype)
    if found["what"] == "scatter_axis" and found["how"] in ("None", "Assign"):
        return mx.put_along_axis(source, indices, updates, axis=0)
    if found["what"] == "scatter_axis":
        return mx.vjp(lambda x: mx.take_along_axis(x, indices, axis=0), [source], [updates])[1][0]
    how = {"Sum": "add", "Max": "maximum", "Min": "minimum", "Prod": "multiply"}.get(found["how"])
    if how is not None:
        scattered: mx.array = getattr(source.at[axes], how)(updates)
        return scattered
    source[axes] = updates
    return source
