"""Modules under the names that they had in 0.1, for one release: `import vlora.samples` finds them, and warns.

The finder is asked last, so that nothing which lies in the package is looked for here.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

MODULES = {
    "backend": "models",
    "backend.tiny": "models.load.tiny",
    "batches": "data.collate",
    "checkpoint": "output.checkpoint",
    "driver": "run.fit",
    "loop": "train.loop",
    "losses": "train.objectives.sft",
    "masks": "data.masking",
    "optimizers": "train.optimizers",
    "packing": "data.packing",
    "samples": "data.format.samples",
    "session": "build",
    "steps": "train.step",
}
"""Modules of 0.1 that define public names to those where these names are now, both within `vlora`."""


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module that forwards attribute access."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of 0.1, and warn; None for any other name."""
        old = fullname.removeprefix("vlora.")
        if not fullname.startswith("vlora.") or old not in MODULES:
            return None
        message = f"vlora.{old} is vlora.{MODULES[old]} now; the old name goes with the release after the next"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=old == "backend")

    def exec_module(self, module: types.ModuleType) -> None:
        """Give the module's names: public ones wherever they are defined today, others where the module has gone."""
        package = importlib.import_module("vlora")
        new = importlib.import_module(f"vlora.{MODULES[module.__name__.removeprefix('vlora.')]}")

        def find(name: str) -> Any:
            if name in package.RENAMED or name in package.__all__:
                return getattr(package, name)
            return getattr(new, name)

        module.__dict__["__getattr__"] = find


def install() -> None:
    """Have the names of 0.1 looked for behind all others; once, however often it is called."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
