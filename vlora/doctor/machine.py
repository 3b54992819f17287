"""The machine that is checked: system, versions, device, memory."""

import importlib.metadata
import os
import platform
import sys

import mlx.core as mx

from ..memory.limits import GIGA, describe_device

PACKAGES = ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-vlm", "transformers", "numpy", "vlora")


def describe_machine() -> dict[str, str]:
    """Describe the machine: name to value for processor, system, versions, device and memory."""
    device = describe_device()
    system = platform.platform()
    if sys.platform == "darwin":
        system = f"macOS {platform.mac_ver()[0]} ({system})"
    described = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_memory_bytes() / GIGA:.1f} GB",
        "system": system,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
    }
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    described["device"] = f"{device.kind}, {device.name}, {device.memory_bytes / GIGA:.2f} GB for arrays"
    described |= {f"device {key}": str(value) for key, value in sorted(mx.device_info().items())}
    described |= {key: value for key, value in sorted(os.environ.items()) if key.startswith(("MLX_", "VLORA_"))}
    return described


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
