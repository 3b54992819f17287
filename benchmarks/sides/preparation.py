"""What is done once before the sides are opened: the device described and measured, the models drawn."""

import statistics
import time
from pathlib import Path
from typing import Any

from vlora.ops import blas  # before mlx: it binds a fast BLAS

# isort: split
import mlx.core as mx

from ..folders import draw_folder
from ..shapes import SHAPES
from .arrays import floating_type, on_gpu

GPU_PRODUCTS = 10
"""Of a round on a GPU; on a CPU one is long enough."""

ROUNDS, UNTIMED_ROUNDS = 8, 3


class Preparation:
    """Serves one process."""

    def describe_device(self) -> dict[str, Any]:
        """Say what MLX computes on."""
        return {
            "device": str(mx.default_device()),
            "name": mx.device_info().get("device_name"),
            "dtype": str(floating_type()).rpartition(".")[2],
            # None: MLX keeps the BLAS that it came with, which on Linux CPUs is slow.
            "blas": blas.LOADED,
        }

    def draw(self, shape: str, bits: int | None, folder: Path) -> float:
        """Write a random model; the seconds that it took."""
        began = time.perf_counter()
        draw_folder(SHAPES[shape], folder, dtype=floating_type(), bits=bits)
        return time.perf_counter() - began

    def measure_matmul(self, size: int) -> dict[str, Any]:
        """Measure the rate of products of square matrices, in the type in which models are trained here."""
        products = GPU_PRODUCTS if on_gpu() else 1
        left, right = (mx.random.normal((size, size)).astype(floating_type()) for _ in range(2))
        mx.eval(left, right)
        rates = []
        for _ in range(UNTIMED_ROUNDS + ROUNDS):
            began = time.perf_counter()
            mx.eval([left @ right for _ in range(products)])
            mx.synchronize()
            rates.append(2 * size**3 * products / (time.perf_counter() - began))
        rates = rates[UNTIMED_ROUNDS:]
        return {"size": size, "flops": statistics.median(rates), "least": min(rates), "most": max(rates)}
