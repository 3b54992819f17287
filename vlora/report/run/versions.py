"""Versions of the programs that a run uses."""

import functools
import importlib
import platform
from collections.abc import Mapping
from importlib import metadata

PACKAGES = ("mlx", "mlx-vlm", "transformers", "datasets", "numpy", "pillow")


@functools.cache
def find_versions() -> Mapping[str, str]:
    """Return the versions of vlora, of its dependencies, of Python and of the system."""
    # What stands above cannot be imported from here; it is there, since this is a part of it.
    found = {"vlora": str(importlib.import_module(__name__.partition(".")[0]).__version__)}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "Python": platform.python_version(), "system": platform.platform()}
