"""What numbers were measured on. Imports no torch."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from typing import Any

import vlora

PACKAGES = ("vlora", "mlx", "mlx-vlm", "mlx-cuda-13", "mlx-cpu", "torch", "transformers", "peft", "numpy")


def describe_host() -> dict[str, Any]:
    """Say what the host is and which versions are there."""
    found = {package: find_version(package) for package in PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version for package, version in found.items() if version is not None},
    }


def find_version(package: str) -> str | None:
    """Look up an installed package's version; vlora's also in a checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return vlora.__version__ if package == "vlora" else None
