"""An adapter as PEFT writes it: `PeftModel.from_pretrained` opens the folder on the published base."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from ..errors import ModelError
from ..models.load.promised_layers import unread_layers
from ..models.published.links import assemble
from ..models.published.peft_layout import BEFORE, FUSE, PeftArrays, lay_out
from ..models.published.places import Places, find_places
from ..models.published.transformers_names import WITH_NORM, WITHOUT, TransformersNames
from ..output.atomic import write_whole_folder
from .saved import Saved

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS_NAME, CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"

PEFT_VERSION = "0.21.2"
"""The release whose layout is written, and that tests compare with."""


@attrs.frozen(eq=False, kw_only=True)
class PeftAdapter:
    """An adapter in PEFT's layout, before it is written.

    Attributes:
        arrays: What the file of arrays has.
        config: What adapter_config.json says.
        places: Where transformers has the parameters.
        is_converted: Whether mlx-vlm converted the base that it names.
        n_layers: How many of the adapter's layers it has.
        unread: The adapter's layers that it leaves out, because nothing reads them.
        outside: transformers' modules outside of the language model that have adapters.
    """

    arrays: Mapping[str, Array]
    config: Mapping[str, Any]
    places: Places
    is_converted: bool
    n_layers: int
    unread: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def to_peft(saved: Saved, *, as_published: bool = False) -> PeftAdapter:
    """Bring an adapter into PEFT's layout.

    Args:
        saved: The adapter.
        as_published: Whether to name layers as the published checkpoint does, and not as transformers.

    Raises:
        ModelError: PEFT has no form for a part of it, or transformers no such parameter.
    """
    kind = saved.files.model_type
    every, saved = saved.layers, _without_unread(saved)
    weights = [f"{layer}.weight" for layer in saved.layers]
    alien = next((layer for layer in saved.layers if WITHOUT.get(kind) in layer.split(".")), None)
    if alien is not None:
        msg = f"{saved.path}: adapts {alien}, and transformers' model of the type {kind} has no such layer; {FUSE}"
        raise ModelError(msg)
    every_place = [*weights, *saved.whole]
    places = find_places(saved.files, saved.backbone.module, every_place, as_published=as_published)
    lost = [name for name in every_place if name not in places.links]
    lost += [name for name in weights if name in places.links and _is_guessed(name, places)]
    if lost:
        raise _lost(saved, lost[0].removesuffix(".weight"), places)
    laid = lay_out({layer: places.links[f"{layer}.weight"] for layer in saved.layers}, saved.layers)
    if places.names is not None:
        laid = _apart_from_experts(laid, saved, places.names.taken_for_experts)
        laid = attrs.evolve(laid, arrays={_spell(key, places.names): value for key, value in laid.arrays.items()})
    tables, modules, is_tied = _whole_modules(saved, places)
    config = describe(laid, saved, modules, is_tied=is_tied)
    beside = [f"{layer}.weight" for layer in saved.layers if not saved.backbone.is_language(layer)]
    return PeftAdapter(
        arrays={**laid.arrays, **tables},
        config=config,
        places=places,
        is_converted=places.is_converted,
        n_layers=len(saved.layers),
        unread=tuple(name for name in every if name not in saved.layers),
        outside=tuple(link.other.removesuffix(".weight") for name in beside for link in places.links[name]),
    )


def _without_unread(saved: Saved) -> Saved:
    """Leave out layers that nothing reads, as where keys and values are shared: transformers has none there."""
    unread = unread_layers(saved.backbone.module)
    return attrs.evolve(saved, layers={name: found for name, found in saved.layers.items() if name not in unread})


def _lost(saved: Saved, name: str, places: Places) -> ModelError:
    """Say why transformers has no place for what an adapter changes, and what to do."""
    where = f"{saved.path}: adapts {name},"
    if not places.is_converted:
        program = "mlx-vlm" if places.names is None else "transformers"
        return ModelError(f"{where} which {program} computes of published weights in a way of its own; {FUSE}")
    return ModelError(
        f"{where} whose published name is not found in {str(saved.files.path)!r}; name the model that it was converted "
        "from with --base"
    )


def _spell(key: str, names: TransformersNames) -> str:
    """Spell the key of an array of a layer so that PEFT finds the layer."""
    module, mark, which = key.removeprefix(BEFORE).partition(".lora_")
    return BEFORE + names.spell_for_peft(f"{module}.weight").removesuffix(".weight") + mark + which


def _apart_from_experts(laid: PeftArrays, saved: Saved, taken: frozenset[str]) -> PeftArrays:
    """Name the weights of layers which PEFT would take for experts, were they named as modules.

    Raises:
        ModelError: They are DoRA's, which PEFT has for modules only.
    """
    found = {name: rank for name, rank in laid.modules.items() if name.rpartition(".")[2] in taken}
    if found and saved.is_dora:
        msg = f"{saved.path}: has DoRA on {next(iter(found))}, which PEFT takes for a part of its experts; {FUSE}"
        raise ModelError(msg)
    modules = {name: rank for name, rank in laid.modules.items() if name not in found}
    weights = {f"{name}.weight": rank for name, rank in found.items()}
    return attrs.evolve(laid, modules=modules, parameters={**laid.parameters, **weights})


def _is_guessed(name: str, places: Places) -> bool:
    """Whether the name that was found for a converted parameter is none that transformers has.

    Of an architecture that transformers does not know, it is so for stacks of experts: only mlx-vlm stacks them.
    """
    if not places.is_converted:
        return False
    if places.names is None:
        return len(places.links[name][0].own_box) == 3  # noqa: PLR2004 - experts
    return not all(places.names.knows(link.other) for link in places.links[name])


def _whole_modules(saved: Saved, places: Places) -> tuple[dict[str, Array], list[str], bool]:
    """Give what was trained whole: arrays by PEFT's names, the modules that they are of, and whether one is tied."""
    links = [link for name in saved.whole for link in places.links[name]]
    arrays = assemble(links, saved.whole)
    partial = {link.other for link in links} - set(arrays)
    if partial:
        msg = f"{saved.path}: trained only a part of transformers' {min(partial)}, and PEFT has no form for it; {FUSE}"
        raise ModelError(msg)
    if (table := WITH_NORM.get(saved.files.model_type)) in arrays:
        msg = f"{saved.path}: trained embeddings, and PEFT saves transformers' {table} with the norm beside it; {FUSE}"
        raise ModelError(msg)
    modules = _owners(arrays)
    is_tied = False
    if _is_tied(saved):
        for name, other in places.tied.items():
            if other in arrays:
                arrays[name], is_tied = arrays[other], True
                modules.append(name.rpartition(".")[0])
    return {f"{BEFORE}{name}": np.ascontiguousarray(value) for name, value in arrays.items()}, modules, is_tied


def _owners(arrays: Mapping[str, Array]) -> list[str]:
    """Name the modules that arrays are of: of an array that is no weight or bias of a layer, all of what it lies in."""
    owners = {name.rpartition(".")[0] for name in arrays}
    return sorted(name for name in owners if not any(name.startswith(f"{other}.") for other in owners if other != name))


def _is_tied(saved: Saved) -> bool:
    """Whether the head is the table of the embeddings."""
    head = saved.backbone.head
    return head is not None and head.is_tied


def describe(laid: PeftArrays, saved: Saved, modules: Sequence[str], *, is_tied: bool) -> dict[str, Any]:
    """Write an adapter's configuration."""
    ranks = {**laid.modules, **laid.parameters}
    common = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = {re.escape(name).replace(r"\_", "_"): rank for name, rank in ranks.items() if rank != common}
    is_decoder = not saved.files.family.format.is_encoder_decoder
    return {
        "alpha_pattern": {name: _alpha(saved.scale, rank) for name, rank in others.items()},
        "auto_mapping": None,
        "base_model_name_or_path": saved.base,
        "bias": "none",
        "ensure_weight_tying": is_tied,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": _alpha(saved.scale, common),
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules) or None,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": common,
        "rank_pattern": others,
        "revision": saved.revision,
        "target_modules": sorted(laid.modules),
        "target_parameters": sorted(laid.parameters) or None,
        "task_type": "CAUSAL_LM" if is_decoder else None,
        "trainable_token_indices": None,
        "use_dora": saved.is_dora,
        "use_rslora": False,
    }


def _alpha(scale: float, rank: int) -> float:
    """Give what PEFT divides by the rank: a whole number where it is one."""
    alpha = scale * rank
    return int(alpha) if alpha == int(alpha) else alpha


def write_peft(adapter: PeftAdapter, folder: Path) -> None:
    """Write the folder, which appears whole."""

    def write(partial: Path) -> None:
        arrays = {name: mx.array(value) for name, value in sorted(adapter.arrays.items())}
        mx.save_safetensors(str(partial / WEIGHTS_NAME), arrays, {"format": "pt"})
        (partial / CONFIG_NAME).write_text(json.dumps(dict(adapter.config), indent=2) + "\n", encoding="utf-8")

    write_whole_folder(folder, write)
