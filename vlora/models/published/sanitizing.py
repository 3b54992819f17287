"""mlx-vlm's renaming of published weights, run on arrays of our own. Reads no weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Weights = Mapping[str, mx.array]

PARTS = (("VisionModel", "vision_config"), ("LanguageModel", "text_config"), ("AudioModel", "audio_config"))
"""Classes of a family's package whose renaming follows the whole model's, and the configuration that each is made
with, in the order of `mlx_vlm.utils.load_model`."""


class Sanitizer:
    """What mlx-vlm does with published weights before it gives them to a model."""

    def __init__(self, module: nn.Module, package: Any) -> None:
        """Make the parts whose renaming is asked.

        Args:
            module: The model; it stays as it is.
            package: Its family's package in mlx-vlm.
        """
        self._module = module
        self._parts = [part for part in self._make_parts(package) if hasattr(part, "sanitize")]

    def _make_parts(self, package: Any) -> Iterator[Any]:
        yield self._module
        for name, key in PARTS:
            kind: Any = getattr(package, name, None)
            if hasattr(kind, "sanitize") and hasattr(self._module.config, key):
                yield kind(getattr(self._module.config, key))

    def __call__(self, weights: Weights) -> dict[str, mx.array]:
        """Rename and lay out weights.

        Raises:
            Exception: Whatever the family's own code raises of names or shapes that it does not know.
        """
        renamed = dict(weights)
        with _unchanged(self._module):
            for part in self._parts:
                renamed = part.sanitize(renamed)
        return dict(renamed)


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Let a model be what it was: Phi-4's renaming keeps what it was given (phi4mm.py:407)."""
    items, attributes = dict(module), dict(vars(module))
    try:
        yield
    finally:
        module.clear()
        dict.update(module, items)
        vars(module).clear()
        vars(module).update(attributes)
