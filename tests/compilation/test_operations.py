"""MLX's names of elementwise operations, as kernels have them: each is that of the function beside it."""

import io

import mlx.core as mx
import pytest

from vlora.compilation.operations import BINARY, N_INPUTS, TERNARY, UNARY

INTEGERS = ("BitwiseInvert", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift")


def named(array: mx.array) -> str:
    """Write the graph of an array, with MLX's names of operations."""
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return text.getvalue()


@pytest.mark.parametrize("name", [*UNARY, *BINARY, *TERNARY])
def test_a_name_is_its_functions(name: str) -> None:
    """The graph of the function's result has an operation of that name."""
    (n_inputs,) = N_INPUTS[name]
    dtype = mx.int32 if name in INTEGERS else mx.complex64 if name in ("Conjugate", "Imag", "Real") else mx.float32
    inputs = [mx.ones(3, mx.bool_ if name == "Select" and not place else dtype) for place in range(n_inputs)]
    found = {**UNARY, **BINARY, **TERNARY}[name](*inputs)

    assert f'"{name}"' in named(found)
