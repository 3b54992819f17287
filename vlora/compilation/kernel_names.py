"""Parses the names of kernels that MLX fuses, and gives the names of their files.

The name of a kernel spells its whole expression (`Compiled::Compiled` in mlx/compile.cpp).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from .operations import N_INPUTS

DTYPES = {
    "b1": mx.bool_,
    "u1": mx.uint8,
    "u2": mx.uint16,
    "u4": mx.uint32,
    "u8": mx.uint64,
    "i1": mx.int8,
    "i2": mx.int16,
    "i4": mx.int32,
    "i8": mx.int64,
    "f2": mx.float16,
    "V2": mx.bfloat16,
    "f4": mx.float32,
    "f8": mx.float64,
    "c8": mx.complex64,
}
"""Kernel names spell a dtype as its kind and its size in bytes."""

LONGEST_NAME = 245
"""Longest file name (`max_file_name_length` in backend/cpu/compiled.cpp and backend/cuda/jit_module.cpp)."""
FILE_ID = 16
"""Characters of the hash that replaces the rest of a longer name on a CPU."""

NAME = re.compile(
    r"(?P<expression>[^_]+)_(?P<kinds>[VSC]*)_(?P<dtypes>(?:[a-zV]\d)*)_(?P<hash>\d+)"
    r"(?P<layout>_contiguous|_strided_(?P<n_axes>\d+))?"
)
INDEXING = re.compile(
    r"(?P<what>gather|gather_axis|scatter|scatter_axis)_(?P<dtype>bool|b?float\d+|u?int\d+)_(?P<index>u?int\d+)"
    r"(?:_(?P<how>Sum|None|Assign|Max|Min|Prod))?(?:_(?P<n_indices>\d+))?"
)


class UnknownNameError(ValueError):
    """A name whose expression is not known here."""


class Node(NamedTuple):
    """An operation of an expression.

    Attributes:
        dtype: Type of its result.
        is_output: Whether the kernel writes the result.
        operation: MLX's name of it.
        inputs: Places of its inputs among the kernel's inputs and the nodes before it.
    """

    dtype: mx.Dtype
    is_output: bool
    operation: str
    inputs: tuple[int, ...]


class Kernel(NamedTuple):
    """A fused kernel, as described by its name.

    Attributes:
        kinds: Kind of each input: "V" an array, "S" a scalar array, "C" a constant.
        dtypes: Types of the inputs that are not constants.
        nodes: The operations in order; the last one is an output.
        n_axes: Axes over which a CPU kernel steps; None on a GPU, or if the arrays are contiguous.
    """

    kinds: str
    dtypes: tuple[mx.Dtype, ...]
    nodes: tuple[Node, ...]
    n_axes: int | None

    @property
    def is_shapeless(self) -> bool:
        """Whether the kernel comes from a function that was compiled for all shapes (`shapeless`)."""
        return any(len(node.inputs) > 1 for node in self.nodes if node.operation == "Broadcast")


def parse_name(name: str) -> Kernel:
    """Read the name of a fused kernel.

    Raises:
        UnknownNameError: It is not the name of a fused kernel, or has an operation that is not known here.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UnknownNameError(name)
    kinds, typed = found["kinds"], re.findall(r"[a-zV]\d", found["dtypes"])
    nodes = next(_parse_nodes(found["expression"], len(kinds)), None)
    if nodes is None or not set(typed) <= DTYPES.keys() or len(typed) != len(kinds) - kinds.count("C"):
        raise UnknownNameError(name)
    n_axes = int(found["n_axes"]) if found["n_axes"] else None
    return Kernel(kinds, tuple(DTYPES[one] for one in typed), nodes, n_axes)


def kernel_file(kind: str, name: str, file_id: str = "") -> Path:
    """Name the file of a kernel's code in MLX's folder, as MLX does.

    Args:
        kind: "cpu" or "cuda".
        name: The kernel's.
        file_id: On a CPU, the hash that replaces the rest of a name too long for a file.
    """
    if kind == "cpu":
        is_long = len(name) > LONGEST_NAME
        return Path(f"lib{name[: LONGEST_NAME - FILE_ID]}_{file_id}.so" if is_long else f"lib{name}.so")
    pieces = [name[start : start + LONGEST_NAME] for start in range(0, len(name), LONGEST_NAME)]
    return Path(*pieces[:-1], f"{pieces[-1]}.ptx")


def parse_constant(text: str) -> tuple[mx.Dtype, float]:
    """Read a constant, such as "float32 0.5" or "bool true", as MLX prints it."""
    dtype, _, value = text.partition(" ")
    words = {"true": True, "false": False, "NAN": float("nan"), "INFINITY": float("inf"), "-INFINITY": -float("inf")}
    typed = getattr(mx, "bool_" if dtype == "bool" else dtype)
    if value in words:
        return typed, words[value]
    return typed, float(value) if mx.issubdtype(typed, mx.inexact) else int(value)


def _node_name(place: int) -> str:
    """Name the arrays of an expression: A to Z, AA, AB, ... (`NodeNamer` in mlx/graph_utils.cpp)."""
    letters = ""
    number = place + 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def _parse_nodes(text: str, place: int) -> Iterator[tuple[Node, ...]]:
    """Yield the ways to parse an expression from a node on; names are not separated, so there may be several.

    The most likely ones come first: a broadcast of one array. Not recursive, since expressions are long.
    """
    waiting: list[tuple[int, tuple[Node, ...]]] = [(0, ())]
    first = place
    while waiting:
        at, nodes = waiting.pop()
        if at == len(text):
            if nodes and nodes[-1].is_output:
                yield nodes
            continue
        here = first + len(nodes)
        name = _node_name(here)
        head = at + len(name)
        dtype = DTYPES.get(text[head : head + 2])
        if not text.startswith(name, at) or dtype is None or text[head + 2 : head + 3] not in ("I", "O"):
            continue
        is_output = text[head + 2] == "O"
        for operation, counts in N_INPUTS.items():
            if text.startswith(operation, head + 3):
                for n_inputs in counts:
                    for end, inputs in _parse_inputs(text, head + 3 + len(operation), here, n_inputs):
                        waiting.append((end, (*nodes, Node(dtype, is_output, operation, inputs))))


def _parse_inputs(text: str, at: int, n_known: int, n_inputs: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (end, places) for each way to parse the names of inputs."""
    if not n_inputs:
        yield at, ()
        return
    for length in (1, 2):
        letters = text[at : at + length]
        if len(letters) < length or not re.fullmatch("[A-Z]+", letters):
            return
        place = 0
        for letter in letters:
            place = place * 26 + ord(letter) - ord("A") + 1
        if place <= n_known:
            for end, rest in _parse_inputs(text, at + length, n_known, n_inputs - 1):
                yield end, (place - 1, *rest)
