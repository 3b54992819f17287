"""Finds a model's parts: those that embedding uses, and the layers that gradient checkpointing recomputes."""

from collections.abc import Iterable, Sequence

import mlx.nn as nn

from ...adapters.model_parts import ModelParts
from ...errors import ModelError
from ...train.grad_checkpoint import CheckpointPart, check_every, choose_modules
from ..families.family import Family


def find_layout(family: Family, language_prefix: str) -> ModelParts:
    """Return the places of the parts of a family's model."""
    return ModelParts(
        language=language_prefix,
        beside_language=family.parts.beside_language,
        no_adapter=family.parts.no_adapter,
        selectors=family.parts.selectors,
        without_experts=family.parts.without_experts,
    )


def used_by_embed(
    module: nn.Module, layout: ModelParts, embedding_parts: Sequence[str], names: Iterable[str]
) -> list[str]:
    """Choose the parameters that embedding uses: all outside the language model, and its embedding tables.

    Args:
        module: The model.
        layout: Where its parts lie.
        embedding_parts: Last parts of the names of layers of the language model that embedding uses besides tables.
        names: Names of parameters.
    """

    def is_table(name: str, part: nn.Module) -> bool:
        # By name, too: quantized tables, and those of some families, have classes of their own.
        is_one = isinstance(part, nn.Embedding) or "Embedding" in type(part).__name__
        return is_one or name.endswith(tuple(embedding_parts))

    parts = [name for name, part in module.named_modules() if layout.is_language(name) and is_table(name, part)]
    inside = tuple(f"{name}." for name in parts if name)
    return [name for name in names if not layout.is_language(name) or name.startswith(inside)]


def language_layers(module: nn.Module, layout: ModelParts) -> Sequence[nn.Module]:
    """Find the language model's layers: the longest of the lists of modules nearest to its root."""
    stacks = [
        (-name.count("."), len(value), value)
        for name, part in module.named_modules()
        if layout.is_language(name)
        for value in _stacks(part)
    ]
    return max(stacks, key=lambda stack: stack[:2])[2]


def tower_layers(module: nn.Module, layout: ModelParts) -> Sequence[Sequence[nn.Module]]:
    """Find the outermost stacks of equal layers outside the language model."""
    stacks: list[tuple[str, list[nn.Module]]] = []
    for name, part in sorted(module.named_modules(), key=lambda named: named[0].count(".")):
        if layout.part(name) in ("vision", "connector") and not name.startswith(tuple(s for s, _ in stacks)):
            stacks += [
                (f"{name}.", value) for value in _stacks(part) if len(value) > 1 and len(set(map(type, value))) == 1
            ]
    return [layers for _, layers in stacks]


def choose_language(
    layers: Sequence[nn.Module], every: int, part: CheckpointPart, limited: str | None
) -> list[nn.Module]:
    """Choose the modules of the language model to recompute.

    Args:
        layers: Its layers.
        every: Every k-th of them.
        part: Whole layers, or their MLPs.
        limited: The part of a layer that is recomputed where whole layers cannot be; None for whole layers.

    Raises:
        ModelError: The layers have no MLP of their own.
    """
    check_every(layers, every)
    if part == "layer" and limited is not None:
        return [layer[limited] for layer in choose_modules(layers, every, "layer") if limited in layer]
    found: list[nn.Module] = choose_modules(layers, every, part)
    if not found and part == "mlp":
        msg = (
            f"train.checkpoint_part: found 'mlp', but this family's layers ({type(layers[0]).__name__}) have no "
            "MLP that is a module of its own; use 'layer'"
        )
        raise ModelError(msg)
    return found


def choose_towers(towers: Sequence[Sequence[nn.Module]], every: int, part: CheckpointPart) -> list[nn.Module]:
    """Choose the modules outside the language model to recompute."""
    return [
        module
        for stack in towers
        for module in choose_modules(stack, every, part) or choose_modules(stack, every, "layer")
    ]


def _stacks(module: nn.Module) -> list[list[nn.Module]]:
    """List the lists of modules among a module's children."""
    return [
        value
        for value in module.children().values()
        if isinstance(value, list) and value and all(isinstance(layer, nn.Module) for layer in value)
    ]
