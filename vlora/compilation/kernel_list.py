"""The list of the kernels that runs are known to need, and which of them are not there."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import mlx.core as mx

from .kernel_names import kernel_file

KNOWN_KERNELS = Path(__file__).with_name("known_kernels.tsv")
"""Made by benchmarks/kernels.py. The first line has the version of MLX; then a line for each kernel: "cpu" or "cuda",
its name, its file's id if the name is too long for a file, its constants as JSON, and the type of the weights that it
is for, if it is for those of one type only: F32, or BF16 for all but F32 and F16; the first needed first."""

PREFERENCE_KERNELS = KNOWN_KERNELS.with_name("preference_kernels.tsv")
"""Of the same form: what runs over preferences are known to need besides."""

MLX_VERSION: str = mx.__version__  # type: ignore[attr-defined]

FULL_TYPES = ("F32", "F16")
"""Types of weights whose runs have no array in bfloat16. Most models are in bfloat16, or quantized from it."""


@attrs.frozen
class Known:
    """A kernel that runs are known to need.

    Attributes:
        kind: "cpu" or "cuda".
        name: MLX's.
        file_id: On a CPU, the hash that replaces the rest of a name too long for a file; else empty.
        constants: As `kernel_names.parse_constant` reads them.
        weights: The type of the weights whose runs need it, as safetensors files name it; empty if all do.
    """

    kind: str
    name: str
    file_id: str
    constants: tuple[str, ...]
    weights: str = ""

    @property
    def line(self) -> str:
        """Its line in a worker's standard input."""
        return json.dumps([self.name, self.file_id, self.constants])


def lists_for(objective: str) -> tuple[Path, ...]:
    """Choose the lists of what a run needs by its `train.objective`."""
    return (KNOWN_KERNELS,) if objective == "sft" else (KNOWN_KERNELS, PREFERENCE_KERNELS)


def list_missing(kind: str, folder: Path, weights: str = "", lists: Sequence[Path] = (KNOWN_KERNELS,)) -> list[Known]:
    """List the known kernels for a kind of device, and for a type of weights, that are not in a folder."""
    return [
        known
        for file in lists
        for known in read_known(file)
        if known.kind == kind
        and known.weights in ("", weights if weights in FULL_TYPES else "BF16")
        and not (folder / kernel_file(kind, known.name, known.file_id)).exists()
    ]


def read_known(file: Path = KNOWN_KERNELS) -> Iterator[Known]:
    """Yield the known kernels; none if MLX's major or minor version differs from the recorded one."""
    version, _, lines = file.read_text(encoding="utf-8").partition("\n")
    if version.removeprefix("# ").split(".")[:2] != MLX_VERSION.split(".")[:2]:
        return
    for line in lines.splitlines():
        kind, name, file_id, constants, *weights = line.split("\t")
        yield Known(kind, name, file_id, tuple(json.loads(constants)), *weights)
