"""Kernels that MLX fuses, made again from their names, so that they can be compiled before anything needs them.

`mx.compile` fuses elementwise operations into kernels that it compiles when they first run, one after another under a
lock (1.5 s of g++ each on a CPU, four to five seconds of NVRTC on an NVIDIA GPU). The name of a kernel spells its whole
expression (`Compiled::Compiled` in mlx/compile.cpp): here the expression is built again from the name, over tiny
arrays. MLX then makes that very kernel, which is seen by the name of its file.

On a CPU nearly all of those 1.5 s are MLX's headers. So MLX only writes the sources of many kernels, and one g++ with
MLX's options compiles them together: 91 kernels in 5 s. Each kernel's file is then a link to the one library.

Run as a program this is a worker: it compiles what its standard input lists, beside other workers, in a folder of its
own, and moves whole kernels into the common one. It imports nothing but MLX, so that it begins at once; so nothing of
vlora is imported here.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

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
"""Kind and size, as names have them."""

KERNEL_BEGINS = 'extern "C"  {'
ENTRY = re.compile(r"^void (\w+)\(int\* shape", re.MULTILINE)
"""Of sources for a CPU."""

LONGEST_NAME = 245
"""Of a file (`max_file_name_length` in backend/cpu/compiled.cpp and backend/cuda/jit_module.cpp)."""
FILE_ID = 16
"""Characters of the hash that stands for the rest of a longer name on a CPU."""

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": mx.abs,
    "ArcCos": mx.arccos,
    "ArcCosh": mx.arccosh,
    "ArcSin": mx.arcsin,
    "ArcSinh": mx.arcsinh,
    "ArcTan": mx.arctan,
    "ArcTanh": mx.arctanh,
    "BitwiseInvert": mx.bitwise_invert,
    "Ceil": mx.ceil,
    "Conjugate": mx.conjugate,
    "Cos": mx.cos,
    "Cosh": mx.cosh,
    "Erf": mx.erf,
    "ErfInv": mx.erfinv,
    "Exp": mx.exp,
    "Expm1": mx.expm1,
    "Floor": mx.floor,
    "Imag": mx.imag,
    "Log": mx.log,
    "Log10": mx.log10,
    "Log1p": mx.log1p,
    "Log2": mx.log2,
    "LogicalNot": mx.logical_not,
    "Negative": mx.negative,
    "Real": mx.real,
    "Round": mx.round,
    "Rsqrt": mx.rsqrt,
    "Sigmoid": mx.sigmoid,
    "Sign": mx.sign,
    "Sin": mx.sin,
    "Sinh": mx.sinh,
    "Sqrt": mx.sqrt,
    "Square": mx.square,
    "Tan": mx.tan,
    "Tanh": mx.tanh,
}
BINARY: dict[str, Callable[..., Any]] = {
    "Add": mx.add,
    "ArcTan2": mx.arctan2,
    "BitwiseAnd": mx.bitwise_and,
    "BitwiseOr": mx.bitwise_or,
    "BitwiseXor": mx.bitwise_xor,
    "Divide": lambda a, b: mx.divide(a, b) if mx.issubdtype(a.dtype, mx.inexact) else mx.floor_divide(a, b),
    "Equal": mx.equal,
    "FloorDivide": mx.floor_divide,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "LeftShift": mx.left_shift,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "LogAddExp": mx.logaddexp,
    "LogicalAnd": mx.logical_and,
    "LogicalOr": mx.logical_or,
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Multiply": mx.multiply,
    "NotEqual": mx.not_equal,
    "Power": mx.power,
    "Remainder": mx.remainder,
    "RightShift": mx.right_shift,
    "Subtract": mx.subtract,
}
TERNARY: dict[str, Callable[..., Any]] = {"Select": mx.where}
N_INPUTS = {
    **dict.fromkeys([*UNARY, "AsType"], (1,)),
    **dict.fromkeys(BINARY, (2,)),
    **dict.fromkeys(TERNARY, (3,)),
    # Where a function is compiled for all shapes, the arrays follow that an array is to have the shape of.
    "Broadcast": (3, 2, 1),
}
"""How many inputs an operation may have, what is likeliest last."""

NAME = re.compile(
    r"(?P<tape>[^_]+)_(?P<kinds>[VSC]*)_(?P<dtypes>(?:[a-zV]\d)*)_(?P<hash>\d+)(?P<layout>_contiguous|_strided_(?P<n_axes>\d+))?"
)
INDEXING = re.compile(
    r"(?P<what>gather|gather_axis|scatter|scatter_axis)_(?P<dtype>bool|b?float\d+|u?int\d+)_(?P<index>u?int\d+)"
    r"(?:_(?P<how>Sum|None|Assign|Max|Min|Prod))?(?:_(?P<n_indices>\d+))?"
)


class UnknownNameError(ValueError):
    """A name that spells no expression known here."""


class Node(NamedTuple):
    """An operation of an expression.

    Attributes:
        dtype: Of what it makes.
        is_output: Whether the kernel writes that.
        operation: MLX's name of it.
        inputs: Places of its inputs among the kernel's inputs and the nodes before it.
    """

    dtype: mx.Dtype
    is_output: bool
    operation: str
    inputs: tuple[int, ...]


class Kernel(NamedTuple):
    """What the name of a fused kernel says.

    Attributes:
        kinds: Of the inputs: "V" an array, "S" one without axes, "C" a constant.
        dtypes: Of the inputs that are no constants.
        nodes: In order; the last one is an output.
        n_axes: Axes over which a kernel for a CPU steps; None if its arrays are read from end to end, or on a GPU.
    """

    kinds: str
    dtypes: tuple[mx.Dtype, ...]
    nodes: tuple[Node, ...]
    n_axes: int | None

    @property
    def is_shapeless(self) -> bool:
        """Whether it comes from a function that was compiled for all shapes at once."""
        return any(len(node.inputs) > 1 for node in self.nodes if node.operation == "Broadcast")


def parse_name(name: str) -> Kernel:
    """Read the name of a fused kernel.

    Raises:
        UnknownNameError: It is none, or has an operation that is not known here.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise UnknownNameError(name)
    kinds, typed = found["kinds"], re.findall(r"[a-zV]\d", found["dtypes"])
    nodes = next(_parse_nodes(found["tape"], len(kinds)), None)
    if nodes is None or not set(typed) <= DTYPES.keys() or len(typed) != len(kinds) - kinds.count("C"):
        raise UnknownNameError(name)
    n_axes = int(found["n_axes"]) if found["n_axes"] else None
    return Kernel(kinds, tuple(DTYPES[one] for one in typed), nodes, n_axes)


def rebuild(name: str, constants: Sequence[tuple[mx.Dtype, float]]) -> tuple[Callable[..., Any], list[mx.array]]:
    """Give a compiled function and arrays for which MLX makes the kernel of a name.

    Args:
        name: As MLX names it.
        constants: Types and values of the kernel's constants, in order.

    Returns:
        The function, and its arguments; no array has more than a few numbers.

    Raises:
        UnknownNameError: The name spells nothing that is known here, or has another number of constants.
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
    """Let MLX compile the kernel of a name, or find it compiled, by running it once.

    Raises:
        UnknownNameError: The name spells nothing that is known here.
    """
    if (found := INDEXING.fullmatch(name)) is not None:
        mx.eval(_index(found))
        return
    function, arrays = rebuild(name, constants)
    mx.eval(function(*arrays))


def kernel_file(kind: str, name: str, file_id: str = "") -> Path:
    """Name the file of a kernel's code in MLX's folder, as MLX does.

    Args:
        kind: "cpu" or "cuda".
        name: The kernel's.
        file_id: On a CPU, what stands for the rest of a name that is too long for a file.
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
    """Yield the ways to read a tape whose first node has a place; names run into one another, so there may be several.

    The likelier ones come first: a broadcast of one array. Not recursive: tapes are long.
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
    """Yield (end, places) of the ways to read the names of inputs."""
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


def _shapes(kernel: Kernel) -> list[tuple[int, ...]]:
    """Give every input and node a shape: that of the outputs, a smaller one before each broadcast."""
    n_axes = kernel.n_axes or 1
    if kernel.is_shapeless:
        # Every operation of two arrays broadcasts them, of whatever shapes they are.
        shape = _shape(0, n_axes, 0) if "V" in kernel.kinds else ()
        return [*(shape if kind == "V" else () for kind in kernel.kinds), *[shape] * len(kernel.nodes)]
    groups = _group(kernel)
    n_inputs = len(kernel.kinds)
    scalar = {groups[place] for place, kind in enumerate(kernel.kinds) if kind != "V"}
    levels = [0] * len(groups)
    # Backwards: what a broadcast reads is smaller than all that is made of it.
    for at, node in reversed(list(enumerate(kernel.nodes))):
        if node.operation == "Broadcast":
            source, made = groups[node.inputs[0]], groups[n_inputs + at]
            levels[source] = max(levels[source], levels[made] + 1)
    return [() if group in scalar else _shape(levels[group], n_axes, max(levels)) for group in groups]


def _group(kernel: Kernel) -> list[int]:
    """Number inputs and nodes, alike those that have one shape: no broadcast is between them, or they are outputs."""
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
    """Give a shape that broadcasts to those of lower levels, whose axes cannot be stepped over as fewer ones."""
    if level == 0:
        return (*[1] * deepest, *[2] * n_axes)
    if level == 1 and n_axes > 1:
        return (*[1] * deepest, *(2 - axis % 2 for axis in range(n_axes)))
    return (1,) * (deepest + n_axes - level + (n_axes > 1))


def _make_array(shape: tuple[int, ...], dtype: mx.Dtype, *, is_strided: bool) -> mx.array:
    """Make an array of ones; a strided one is not read from end to end."""
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


def work(kind: str, root: Path, common: Path, claims: Path, lines: Sequence[str], n_together: int) -> None:
    """Compile those of the listed kernels that no other worker has taken.

    Args:
        kind: "cpu" or "cuda".
        root: What the environment tells MLX of where to put what this process compiles.
        common: Where kernels belong.
        claims: A folder with a file for each group of kernels that a worker has taken.
        lines: JSON: [name, file's id, [constant, ...]].
        n_together: Kernels of a group.
    """
    parent = os.getppid()
    take: Callable[[Sequence[Any], Path, Path], None] = compile_together if kind == "cpu" else compile_each
    for start in range(0, len(lines), n_together):
        try:
            os.close(os.open(claims / str(start), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        # Whoever asked for it may have gone.
        if os.getppid() != parent:
            return
        take([json.loads(line) for line in lines[start : start + n_together]], root, common)


def compile_each(listed: Sequence[Any], root: Path, common: Path) -> None:
    """Let MLX compile kernels for a GPU, and move each into the common folder: its code last, which MLX looks for.

    Args:
        listed: (name, file's id, constants) of each.
        root: Where MLX puts them.
        common: Where they belong.
    """
    for name, _, constants in listed:
        try:
            make_kernel(name, [parse_constant(text) for text in constants])
        except (ValueError, RuntimeError):
            # Of another version of MLX: what the run needs, it compiles itself.
            continue
        file = kernel_file("cuda", name)
        for suffix in (".txt", ".cu", file.suffix):
            part = (root / file).with_suffix(suffix)
            if part.exists():
                (common / file.parent).mkdir(parents=True, exist_ok=True)
                part.replace(common / file.parent / part.name)


def compile_together(listed: Sequence[Any], root: Path, common: Path) -> None:
    """Let MLX write the sources of kernels for a CPU, compile them as one, and link the common folder's files to that.

    Args:
        listed: (name, file's id, constants) of each.
        root: MLX's temporary folder.
        common: Where kernels belong.
    """
    compiler = shutil.which("g++")
    sources, command = write_sources(listed, root)
    if compiler is None or not sources:
        return
    together, library = root / "together.cpp", root / "together.so"
    together.write_text("".join(_join(list(sources.values()))), encoding="utf-8")
    # MLX's own options; only the files are others.
    options = [word for word in command if not word.endswith((".cpp", ".so")) and word != "-o"]
    made = subprocess.run(  # noqa: S603 - the compiler that MLX runs
        [compiler, *options, str(together), "-o", str(library)], check=False, capture_output=True, cwd=root
    )
    if made.returncode:
        return
    common.mkdir(parents=True, exist_ok=True)
    # One file for all of them: a process that has loaded one has loaded them all.
    for name, file_id, _ in listed:
        if name in sources:
            link = root / "link.so"
            try:
                os.link(library, link)
            except OSError:
                # A file system without links.
                shutil.copyfile(library, link)
            link.replace(common / kernel_file("cpu", name, file_id))
    library.unlink()


def write_sources(listed: Sequence[Any], root: Path) -> tuple[dict[str, str], list[str]]:
    """Let MLX write the sources of kernels and believe that they do not compile.

    Args:
        listed: (name, file's id, constants) of each.
        root: MLX's temporary folder.

    Returns:
        The sources by the kernels' names, and the words of the last command after "g++" with which MLX would have
        compiled one of them.
    """
    programs = root / "programs"
    programs.mkdir(exist_ok=True)
    words = root / "words"
    stand_in = programs / "g++"
    lines = [
        "#!/bin/sh",
        # So MLX asks whether there is a compiler.
        'case "$1" in --version) exit 0;; esac',
        f"printf '%s\\n' \"$@\" > {shlex.quote(str(words))}",
        "exit 1",
    ]
    stand_in.write_text("\n".join([*lines, ""]), encoding="utf-8")
    stand_in.chmod(0o700)
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{programs}{os.pathsep}{path}"
    try:
        for name, _, constants in listed:
            # A kernel that MLX "cannot compile", or a name of another version of it.
            with contextlib.suppress(RuntimeError, ValueError):
                make_kernel(name, [parse_constant(text) for text in constants])
    finally:
        os.environ["PATH"] = path
    found = {}
    for file in root.glob("mlx/*/cpu/*.cpp"):
        source = file.read_text(encoding="utf-8")
        if (entry := ENTRY.search(source)) is not None:
            found[entry[1]] = source
    command = words.read_text(encoding="utf-8").splitlines() if words.exists() else []
    return {name: found[name] for name, _, _ in listed if name in found}, command


def _join(sources: Sequence[str]) -> Iterator[str]:
    """Yield the sources with what stands before the first kernel, MLX's headers, once."""
    yield sources[0]
    for source in sources[1:]:
        head, begins, body = source.partition(KERNEL_BEGINS)
        yield begins + body if sources[0].startswith(head) else source


def main() -> None:
    """Work until nothing is left: `python rebuild.py KIND ROOT COMMON CLAIMS N_TOGETHER < LINES`."""
    kind, root, common, claims, n_together = sys.argv[1:]
    # Not in the way of who is going to wait for it: the run reads its rows meanwhile.
    os.nice(5)
    work(kind, Path(root), Path(common), Path(claims), sys.stdin.read().splitlines(), int(n_together))


if __name__ == "__main__":
    main()
