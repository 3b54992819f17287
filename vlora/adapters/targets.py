"""Which layers of a model get an adapter: names, suffixes, patterns and groups, resolved. Pure."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import mlx.nn as nn

from ..errors import ModelError
from ..recipe.checks import PATTERN
from ..recipe.schema import LoraSection
from .model_parts import ModelParts
from .names import ATTENTION, ATTENTION_LAYERS, HEADS, ROUTERS


def is_experts(module: nn.Module) -> bool:
    """Whether a module is one linear layer of many experts, their weights stacked: f[experts, outputs, inputs]."""
    return hasattr(module, "num_experts") and "weight" in module and module.weight.ndim == 3  # noqa: PLR2004


def is_stacked(name: str, layout: ModelParts) -> bool:
    """Whether a layer lies in one of the language model's layers."""
    return layout.is_language(name) and _layer_number(name) is not None


def is_router(name: str) -> bool:
    """Whether a layer chooses experts."""
    return not set(ROUTERS).isdisjoint(name.split("."))


def is_head(name: str) -> bool:
    """Whether a layer turns hidden states into logits."""
    return name.rpartition(".")[2] in HEADS and _layer_number(name) is None


def resolve_target_modules(model: nn.Module, layout: ModelParts, lora: LoraSection) -> list[str]:
    """Name the layers that get an adapter.

    Args:
        model: The whole model, without adapters.
        layout: Where its parts lie.
        lora: What the recipe names. A suffix ("q_proj", "self_attn.q_proj") means layers of the language model, or of
            the whole model where the language model has none; a pattern has to match a whole name. Heads and routers
            are only matched by a suffix or a name of their own. DoRA leaves experts out unless they are named.

    Returns:
        Qualified names in the model's order.

    Raises:
        ModelError: A target that matches nothing (the message names near ones), or more layers than there are.
    """
    adaptable = _adaptable(model, layout)
    found = _named(adaptable, layout, lora.targets) if lora.targets else _default(adaptable, layout, lora)
    if lora.last_layers is not None:
        found = _in_last_layers(found, adaptable, layout, lora.last_layers)
    if not found:
        msg = "lora.targets: the language model has no linear layer to adapt"
        raise ModelError(msg)
    return [name for name in adaptable if name in found]


def _default(adaptable: Mapping[str, nn.Module], layout: ModelParts, lora: LoraSection) -> set[str]:
    """Name all linear layers of the language model; with experts among them, those of its layer stack."""
    groups = _groups(adaptable, layout)
    found, experts = set(groups["language"]), set(groups["experts"])
    if not experts or lora.method == "dora" or layout.without_experts:
        return found - experts
    return {name for name in found if is_stacked(name, layout)}


def _named(adaptable: Mapping[str, nn.Module], layout: ModelParts, targets: Sequence[str]) -> set[str]:
    """Name the layers that targets match."""
    found: set[str] = set()
    for target in targets:
        matches = _resolve(target, adaptable, layout)
        if not matches:
            raise ModelError(_no_match(target, adaptable))
        found.update(matches)
    experts = [name for name in found if is_experts(adaptable[name])]
    if not experts:
        return found
    if layout.without_experts:
        msg = f"lora.targets: the experts of this family get no adapters: {layout.without_experts}; leave them out"
        raise ModelError(msg)
    # mlx-vlm attaches adapters of experts to every layer of the stack, and beside it to nothing (adapter_utils.py:68).
    beside = [name for name in adaptable if name in found and not is_stacked(name, layout)]
    if beside:
        msg = (
            f"lora.targets: names experts together with {beside[0]}, which lies outside the language model's layers; "
            "mlx-vlm cannot load such an adapter, leave one of the two out"
        )
        raise ModelError(msg)
    return found


def _adaptable(model: nn.Module, layout: ModelParts) -> dict[str, nn.Module]:
    """Find all layers that can have an adapter."""
    barred = {*layout.no_adapter, *layout.selectors}
    return {
        name: module
        # MLX names the last module first.
        for name, module in reversed(model.named_modules())
        if (isinstance(module, (nn.Linear, nn.QuantizedLinear)) or is_experts(module))
        and not barred.intersection(name.split("."))
    }


def _groups(adaptable: Mapping[str, nn.Module], layout: ModelParts) -> dict[str, list[str]]:
    """Find the layers of each group of a recipe."""
    ordinary = [name for name in adaptable if not is_router(name) and not is_head(name)]

    def of(choose: Callable[[str], bool]) -> list[str]:
        return [name for name in ordinary if choose(name)]

    language = of(layout.is_language)
    attention = [name for name in language if _is_attention(name)]
    experts = [name for name in language if is_experts(adaptable[name])]
    stacked = [name for name in language if is_stacked(name, layout)]
    return {
        "language": language,
        "vision": of(lambda name: layout.part(name) == "vision"),
        "connector": of(lambda name: layout.part(name) == "connector"),
        "experts": experts,
        "attention": attention,
        "mlp": [name for name in stacked if name not in {*attention, *experts}],
        "all-linear": of(lambda name: layout.part(name) != "other"),
    }


GROUPS = ("language", "vision", "connector", "experts", "attention", "mlp", "all-linear")


def _resolve(target: str, adaptable: Mapping[str, nn.Module], layout: ModelParts) -> list[str]:
    if target in GROUPS:
        return _groups(adaptable, layout)[target]
    if target.startswith(PATTERN):
        pattern = re.compile(target.removeprefix(PATTERN))
        return [name for name in adaptable if pattern.fullmatch(name) and not is_router(name) and not is_head(name)]
    matches = [name for name in adaptable if name == target or name.endswith(f".{target}")]
    return [name for name in matches if layout.is_language(name)] or matches


def _no_match(target: str, adaptable: Mapping[str, nn.Module]) -> str:
    if target in GROUPS:
        return f"lora.targets: the model has no layers of the group {target!r}; leave it out"
    known = sorted({name.rpartition(".")[2] for name in adaptable} | set(adaptable) | set(GROUPS))
    wanted = target.removeprefix(PATTERN)
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4) or known[:8]
    if target.startswith(PATTERN):
        return (
            f"lora.targets: {target!r} matches no layer; a pattern has to match a whole name, as 're:.*q_proj' does; "
            f"names of this model: {', '.join(near)}"
        )
    return f"lora.targets: {target!r} matches no linear layer of the model; near: {', '.join(near)}"


def _in_last_layers(names: set[str], adaptable: Iterable[str], layout: ModelParts, count: int) -> set[str]:
    """Leave out what lies in earlier layers of the language model; what lies in none of its layers stays."""
    lengths: dict[str, int] = {}
    for name in adaptable:
        number = _layer_number(name)
        if number is not None and layout.is_language(name):
            lengths[number[0]] = max(lengths.get(number[0], 0), number[1] + 1)
    longest = max(lengths.values(), default=0)
    if count > longest:
        msg = f"lora.last_layers: found {count}, but the language model has {longest} layers; lower it or leave it out"
        raise ModelError(msg)

    def is_late(name: str) -> bool:
        number = _layer_number(name)
        return number is None or not layout.is_language(name) or number[1] >= lengths[number[0]] - count

    return {name for name in names if is_late(name)}


def _layer_number(name: str) -> tuple[str, int] | None:
    """Find the stack that a layer lies in and its place there; None outside of stacks."""
    found = re.match(r"(.*?)\.(\d+)(?:\.|$)", name)
    return None if found is None else (found[1], int(found[2]))


def _is_attention(name: str) -> bool:
    return name.rpartition(".")[2] in ATTENTION_LAYERS or any(word in name for word in ATTENTION)
