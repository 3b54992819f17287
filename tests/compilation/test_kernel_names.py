"""Names of kernels, of constants and of files, as MLX writes them."""

from pathlib import Path

import mlx.core as mx
import pytest

from vlora.compilation.kernel_names import UnknownNameError, kernel_file, parse_constant, parse_name


def test_what_a_name_says() -> None:
    """Inputs, types and operations, in order."""
    kernel = parse_name("Cf4IBroadcastADf4OMultiplyCB_CV_f4_15689223909178048092_strided_3")

    assert kernel.kinds == "CV"
    assert kernel.dtypes == (mx.float32,)
    assert [(node.operation, node.inputs, node.is_output) for node in kernel.nodes] == [
        ("Broadcast", (0,), False),
        ("Multiply", (2, 1), True),
    ]
    assert kernel.n_axes == 3


@pytest.mark.parametrize(
    "name",
    ["", "gather_float32", "Cf4IFoldADf4OMultiplyCB_CV_f4_1_contiguous", "Cf4IAddAB_VV_f4f4_1", "Cf4OAddAB_VV_f4_1"],
)
def test_other_names_are_refused(name: str) -> None:
    """Unknown operations, no output, too few types."""
    with pytest.raises(UnknownNameError):
        parse_name(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [("float32 0.5", 0.5), ("int32 -3", -3), ("bool true", True), ("bfloat16 -INFINITY", -float("inf"))],
)
def test_constants_are_read(text: str, value: float) -> None:
    """As MLX prints them."""
    assert parse_constant(text)[1] == value
    assert str(parse_constant(text)[0]).removeprefix("mlx.core.").startswith(text.split(maxsplit=1)[0])


def test_files_are_named_as_mlx_does() -> None:
    """A name that is too long is cut and hashed on a CPU, and goes on in folders on a GPU."""
    assert kernel_file("cpu", "short") == Path("libshort.so")
    assert kernel_file("cpu", "x" * 300, "00ff") == Path(f"lib{'x' * 229}_00ff.so")
    assert kernel_file("cuda", "short") == Path("short.ptx")
    assert kernel_file("cuda", "x" * 245) == Path(f"{'x' * 245}.ptx")
    assert kernel_file("cuda", "x" * 500) == Path("x" * 245, "x" * 245, f"{'x' * 10}.ptx")
