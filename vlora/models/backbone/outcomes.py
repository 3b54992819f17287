"""Caches the results of a model's setup checks for later runs of the same model on the same kind of device.

A check compiles and computes on the device. Its result depends on the model's configuration and types, the code and the
device, but not on the values of the weights. These form the key: if one of them changes, or the file is damaged, the
check runs again.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...memory.limits import describe_device
from ...system.cache import cache_folder, write_whole
from ...system.package import source_files
from ...system.private import ForeignError, open_own

PACKAGES = ("mlx", "mlx-vlm")


@attrs.define(eq=False)
class Outcomes:
    """Results of checks of one model.

    Attributes:
        path: Their file; None if they are not cached.
        key: The key that they depend on.
        found: Results by name, as JSON values.
    """

    path: Path | None = None
    key: str = ""
    found: dict[str, Any] = attrs.field(factory=dict)
    _is_new: bool = attrs.field(default=False, init=False)

    def settle(self, question: str, find: Callable[[], Any], *, is_valid: Callable[[Any], bool]) -> Any:
        """Return the result of a check, cached or computed now.

        Args:
            question: The name of the check; unique for the model.
            find: Runs the check; returns a JSON value.
            is_valid: Whether a cached value can be a result.
        """
        if question in self.found and is_valid(self.found[question]):
            return self.found[question]
        self.found[question] = find()
        self._is_new = True
        return self.found[question]

    def save(self) -> None:
        """Write the results if there are new ones; errors of writing are ignored."""
        if self.path is None or not self._is_new:
            return
        content = json.dumps({"key": self.key, "found": self.found}, indent=1).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        self._is_new = not write_whole(self.path, content)


def open_outcomes(config: Mapping[str, Any], module: nn.Module) -> Outcomes:
    """Read the cached results for a model.

    Args:
        config: Its config.json.
        module: The model that will be checked.
    """
    device = describe_device()
    types = {name: [list(value.shape), str(value.dtype)] for name, value in tree_flatten(module.parameters())}
    named = {
        "config": config,
        "parameters": types,
        "device": [device.kind, device.name],
        "packages": {package: _version(package) for package in PACKAGES},
        "code": code_fingerprint(),
    }
    key = hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder() / "checks" / f"{key}.json"
    return Outcomes(path, key, _read(path, key))


@functools.cache
def code_fingerprint() -> str:
    """Digest vlora's own code."""
    digest = hashlib.sha256()
    for file in source_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        with open_own(path) as (file, _):
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError, ForeignError):
        return {}
    if not isinstance(content, dict) or content.get("key") != key or not isinstance(content.get("found"), dict):
        return {}
    found: dict[str, Any] = content["found"]
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
