"""What PEFT's configuration says of an adapter: settings that are read, and layers that its file has to have. Pure."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from ...errors import CheckpointError

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "fan_in_fan_out": (False,),
    "use_bdlora": (None, False),
    "use_qalora": (False,),
}
"""Settings of PEFT that are read where they have these values only, or are not there."""

LAYER_END = r"(.*\.)?({})$"
"""How PEFT finds a layer by a pattern of how its name ends."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of adapters whose base is not the published one, unless they were converted on saving."""


def check_settings(config: Mapping[str, Any], where: str) -> None:
    """Refuse what would be read as something else.

    Raises:
        CheckpointError: The setting and what it has.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        msg = f"{where}: found an adapter of type {kind!r}; expected 'LORA'"
        raise CheckpointError(msg)
    for key, known in REFUSED.items():
        if key in config and config[key] not in (*known, None):
            msg = f"{where}: {key}: found {config[key]!r}, which is not read; merge the adapter with PEFT instead"
            raise CheckpointError(msg)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        msg = (
            f"{where}: init_lora_weights: found {start!r}, so its base is not the published one; save it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
        raise CheckpointError(msg)
    for key, patterns, kinds in (("r", "rank_pattern", (int,)), ("lora_alpha", "alpha_pattern", (int, float))):
        if not _is_size(config.get(key), kinds):
            msg = f"{where}: {key}: found {config.get(key)!r}, expected a number above 0"
            raise CheckpointError(msg)
        _check_patterns(config, patterns, kinds, where)
    _check_targets(config, where)


def _is_size(value: Any, kinds: tuple[type, ...]) -> bool:
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    return is_number and bool(0 < value < math.inf)


def _check_patterns(config: Mapping[str, Any], key: str, kinds: tuple[type, ...], where: str) -> None:
    """Refuse layers' own ranks or alphas that are none, or belong to no pattern."""
    found = config.get(key) or {}
    if not isinstance(found, dict) or not all(_is_size(value, kinds) for value in found.values()):
        msg = f"{where}: {key}: found {found!r}, expected numbers above 0 by names of layers"
        raise CheckpointError(msg)
    for name in found:
        try:
            re.compile(LAYER_END.format(name))
        except re.error as error:
            msg = f"{where}: {key}: found {name!r}, which is no pattern ({error})"
            raise CheckpointError(msg) from None


def _check_targets(config: Mapping[str, Any], where: str) -> None:
    """Refuse names of layers that are none, or no pattern."""
    for key in ("target_modules", "exclude_modules", "target_parameters", "modules_to_save"):
        found = config.get(key)
        try:
            if isinstance(found, str):
                re.compile(found)
            elif found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
                msg = f"{where}: {key}: found {found!r}, expected a list of names"
                raise CheckpointError(msg)
        except re.error as error:
            msg = f"{where}: {key}: found {found!r}, which is no pattern ({error})"
            raise CheckpointError(msg) from None


def find_missing(
    config: Mapping[str, Any], known: Mapping[str, str], adapted: Collection[str], whole: Collection[str]
) -> str | None:
    """Find a layer that a configuration names and that has no array. PEFT leaves such a layer as the base has it.

    A list of whole names is taken at its word. The end of a name, or a pattern, fits layers of parts that were not
    adapted, too, so that a layer is missing only where others of its kind are there.

    Args:
        config: The adapter's configuration.
        known: Parameters that are read, by their names; of a tied one, the name of the one that it is tied to.
        adapted: Parameters that have factors.
        whole: Parameters that were trained whole.

    Returns:
        The first missing module or parameter, or what `modules_to_save` calls it; None if there is none.
    """
    for name in config.get("modules_to_save") or ():
        found = {other for one, other in known.items() if _is_named(one, name)}
        if found and not found & set(whole):
            return str(name)
    for name in config.get("target_parameters") or ():
        if known.get(name) == name and name not in adapted:
            return str(name)
    if config.get("layers_to_transform") is not None or config.get("layers_pattern"):
        return None
    targets, excluded = config.get("target_modules") or (), config.get("exclude_modules") or ()
    kinds = {_kind(name) for name in adapted}
    for name in sorted(known.keys() - set(adapted) - set(whole)):
        if known[name] != name or not _fits(name, targets) or _fits(name, excluded):
            continue
        is_exact = not isinstance(targets, str) and name.removesuffix(".weight") in targets
        if is_exact or _kind(name) in kinds:
            return name.removesuffix(".weight")
    return None


def _fits(parameter: str, targets: str | Collection[str]) -> bool:
    """Whether targets of PEFT name a parameter's module: a pattern of its whole name, or a list of ends."""
    if isinstance(targets, str):
        return re.fullmatch(targets, parameter.removesuffix(".weight")) is not None
    return any(_is_named(parameter, target) for target in targets)


def _is_named(parameter: str, end: str) -> bool:
    return f".{parameter}".endswith(f".{end}.weight")


def _kind(parameter: str) -> str:
    """Name what layers of all depths have in common."""
    return re.sub(r"\d+", "#", parameter)
