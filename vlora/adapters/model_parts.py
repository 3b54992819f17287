"""To which part of a model a layer belongs. Pure.

A model has parts: the language model, the vision tower, the connector between the two, and whatever else it carries
(hearing, speaking), which is not trained. Parts are told by the names of modules; a family's description corrects
what names alone get wrong.
"""

from typing import Literal

import attrs

from .names import CONNECTORS, OTHERS

Part = Literal["language", "connector", "vision", "other"]


@attrs.frozen(kw_only=True)
class ModelParts:
    """Where the parts of a model lie.

    Attributes:
        language: The language model's name within the model; empty if the model is its own.
        beside_language: Names of parts that lie within the language model but are not of it.
        no_adapter: Parts of the names of layers whose weights the model reads directly; no adapters.
        selectors: Parts of the names of layers that only choose what is attended to; no gradient, and no adapters.
        without_experts: Why layers of experts get no adapters; None if they do.
    """

    language: str
    beside_language: tuple[str, ...] = ()
    no_adapter: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    without_experts: str | None = None

    def part(self, name: str) -> Part:
        """Find the part to which a module or parameter belongs, by its qualified name."""
        dotted = f"{name}."
        inside = not self.language or dotted.startswith(f"{self.language}.")
        if inside and not dotted.startswith(tuple(f"{beside}." for beside in self.beside_language)):
            return "language"
        if any(other in name for other in OTHERS):
            return "other"
        return "connector" if CONNECTORS.intersection(name.split(".")) else "vision"

    def is_language(self, name: str) -> bool:
        """Whether a module or parameter belongs to the language model."""
        return self.part(name) == "language"
