"""Attaches or loads adapters, and makes tables trainable beside them."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ...adapters import targets
from ...adapters.attach import attach_lora
from ...adapters.attached import lora_layers
from ...adapters.layers import Adapter
from ...errors import CheckpointError, ModelError
from ...output.base_identity import KEY, BaseIdentity, check_base
from ...recipe.schema import LoraSection
from ...train.unbound import mark
from ..backbone.backbone import MlxVlmBackbone
from .adapter_files import named_base, read_adapter
from .model_files import ModelFiles
from .promised_layers import refuse_unfit
from .saved_adapters import open_adapter
from .tables import find_tables
from .unfreeze import refuse_quantized

OnWrapped = Callable[[str, nn.Module], None]
"""Is told a layer that got an adapter, and its name."""

SCHEME = ("group_size", "bits", "mode")
"""Keys of an adapter's configuration for each layer of a quantized base."""


def add_lora(
    backbone: MlxVlmBackbone,
    lora: LoraSection,
    *,
    seed: int,
    quantized: Mapping[str, Any],
    on_wrapped: OnWrapped | None = None,
) -> dict[str, Any]:
    """Attach a LoRA to the layers that a recipe names, and unfreeze the tables that it trains completely.

    Args:
        backbone: The model.
        lora: The recipe's section.
        seed: Fixes the factors' start.
        quantized: How the base was quantized on loading.
        on_wrapped: As for `attach_lora`.

    Returns:
        The adapter's configuration, with which mlx-vlm attaches the same layers.

    Raises:
        ModelError: A target matches nothing, or an adapter cannot be made.
    """
    names = targets.resolve_target_modules(backbone.module, backbone.layout, lora)
    refuse_dropout_in_tower(backbone, names, lora)
    attach_lora(
        backbone.module,
        names,
        rank=lora.rank,
        scale=scale_of(lora),
        dropout=lora.dropout,
        method=lora.method,
        init=lora.init,
        seed=seed,
        on_wrapped=on_wrapped,
    )
    tables = unfreeze_tables(backbone, embeddings=lora.train_embeddings, head=lora.train_head)
    # The model may have been asked already, and traces of the tower hold its layers as they were.
    backbone.forget_traces()
    return lora_config(backbone, names, lora, quantized, tables)


def scale_of(lora: LoraSection) -> float:
    """Return the scale of the product of an adapter's factors.

    rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732) divides by the root of the rank, so that the size of the update does
    not fall with it.
    """
    return lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)


def refuse_dropout_in_tower(backbone: MlxVlmBackbone, names: Iterable[str], lora: LoraSection) -> None:
    """Refuse dropout outside of the language model: embedding runs twice in a step, and would drop other inputs.

    Raises:
        ModelError: The recipe has dropout and adapters outside of the language model.
    """
    outside = [name for name in names if not backbone.is_language(name)]
    if lora.dropout and outside:
        msg = (
            f"lora.dropout: found {lora.dropout} with an adapter on {outside[0]}, outside of the language model, where "
            "inputs cannot be dropped; set it to 0"
        )
        raise ModelError(msg)


def lora_config(
    backbone: MlxVlmBackbone,
    names: list[str],
    lora: LoraSection,
    quantized: Mapping[str, Any],
    tables: list[str],
) -> dict[str, Any]:
    """Make an adapter's configuration in mlx-vlm's format.

    mlx-vlm attaches either single named layers or all layers of the stack; only in the second way it supports experts
    (adapter_utils.py:43, peft/utils.py:45). Layers of the stack that were not adapted then add nothing.
    """
    modules = dict(lora_layers(backbone.module))
    parameters: dict[str, Any] = {
        "rank": lora.rank * (2 if lora.init == "pissa" else 1),
        "scale": scale_of(lora),
        "dropout": lora.dropout,
    }
    config: dict[str, Any] = {"fine_tune_type": lora.method, "num_layers": -1, "lora_parameters": parameters}
    if any(targets.is_experts(modules[name].linear) for name in names):
        config["adapted_layers"] = names
    else:
        parameters["keys"] = names
    if tables:
        config["trained_tables"] = tables
    return {**config, "base_quantization": dict(quantized)} if quantized else config


def unfreeze_tables(backbone: MlxVlmBackbone, *, embeddings: bool, head: bool) -> list[str]:
    """Make all weights of the token embeddings and the head trainable.

    Returns:
        The names of the modules; one for both where the head is the embeddings' table.

    Raises:
        ModelError: A table is missing or quantized.
    """
    modules = dict(backbone.module.named_modules())
    names: list[str] = []
    if embeddings:
        tables = find_tables(backbone)
        if not tables:
            msg = "lora.train_embeddings: this family's token embeddings are not known; leave it out"
            raise ModelError(msg)
        names += tables
    if head:
        if backbone.head is None:
            msg = "lora.train_head: this family's head is not known; leave it out"
            raise ModelError(msg)
        names.append(backbone.head.name)
    names = list(dict.fromkeys(names))
    for name in names:
        refuse_quantized(modules[name], "lora.train_embeddings" if embeddings else "lora.train_head")
        modules[name].unfreeze()
    return names


def load_adapter(
    backbone: MlxVlmBackbone,
    path: Path | str,
    lora: LoraSection | None = None,
    quantized: Mapping[str, Any] | None = None,
    *,
    files: ModelFiles | None = None,
    is_strict: bool = False,
    on_wrapped: OnWrapped | None = None,
) -> dict[str, Any]:
    """Attach a saved adapter for further training, in place of the model's current one.

    Rank, scale and layers come from the adapter; a recipe may repeat them, but not change them. The dropout may change.
    Call it before `init_state`, which takes the model's current parameters.
    Where it was trained on other weights, or does not say on which, `backbone.base_note` names both models.

    Args:
        backbone: The model. It keeps its current adapter if the saved one does not fit.
        path: The adapter's file, `adapter_config.json` beside it, or the folder of both.
        lora: The recipe's section.
        quantized: How the base was quantized on loading; by default it is read from the model's layers.
        files: Where the model comes from; an adapter that PEFT wrote needs it.
        is_strict: Refuse an adapter of other weights, and one that does not say of which it is.
        on_wrapped: As for `attach_lora`.

    Returns:
        Its configuration, for `save_adapter`.

    Raises:
        CheckpointError: The adapter does not exist, or is for another model, or the model has a table of an adapter
            before that this one does not bring.
    """
    note = None
    if backbone.base is not None:
        file, config = read_adapter(str(path))
        recorded = BaseIdentity.load(config.get(KEY) or {})
        note = check_base(recorded, backbone.base, file, is_strict=is_strict, older=named_base(config))
    before = detach(backbone.module)
    try:
        config = _attach_saved(backbone, str(path), lora or LoraSection(), quantized, files, on_wrapped)
        backbone.base_note = note
        mark(backbone.module, is_unbound=False)
        return config if backbone.base is None else {**config, KEY: backbone.base.dump()}
    except BaseException:
        detach(backbone.module)
        _put(backbone.module, before)
        raise
    finally:
        # The model may have been asked already, and traces of the tower hold its layers as they were.
        backbone.forget_traces()


def detach(module: nn.Module) -> dict[str, Adapter]:
    """Replace adapters by their frozen layers, and return the adapters by name."""
    adapters = dict(lora_layers(module))
    _put(module, {name: adapter.linear for name, adapter in adapters.items()})
    return adapters


def _put(module: nn.Module, chosen: Mapping[str, nn.Module]) -> None:
    module.update_modules(tree_unflatten(list(chosen.items())))


def _attach_saved(
    backbone: MlxVlmBackbone,
    path: str,
    lora: LoraSection,
    quantized: Mapping[str, Any] | None,
    files: ModelFiles | None,
    on_wrapped: OnWrapped | None,
) -> dict[str, Any]:
    weights, config = open_adapter(backbone, path, files)
    settings = config.get("lora_parameters") or {}
    names = list(dict.fromkeys(config.get("adapted_layers") or settings.get("keys") or ()))
    saved_tables = config.get("trained_tables") or ()
    method = config.get("fine_tune_type")
    if method not in ("lora", "dora") or not names or not settings:
        msg = f"{path}: found an adapter of type {method!r} without a list of layers; expected a LoRA or DoRA"
        raise CheckpointError(msg)
    known = dict(backbone.module.named_modules())
    config = _settle_quantization(path, config, known, quantized, has_base=backbone.base is not None)
    missing = [name for name in names if not _can_adapt(known.get(name))]
    missing += [name for name in saved_tables if "weight" not in known.get(name, {})]
    if missing:
        msg = f"{path}: adapts {missing[0]}, which the model does not have; was it trained on another model?"
        raise CheckpointError(msg)
    _refuse_other_tables(path, backbone, known, saved_tables)
    rank, scale = int(settings["rank"]), float(settings["scale"])
    _refuse_changes(path, names, config, lora, backbone)
    dropout = settings.get("dropout", 0.0) if lora.dropout == LoraSection().dropout else lora.dropout
    refuse_dropout_in_tower(backbone, names, attrs.evolve(lora, dropout=dropout))
    settled = {"rank": rank, "scale": scale, "dropout": dropout, "method": method}
    attach_lora(backbone.module, names, **settled, on_wrapped=on_wrapped)
    current = dict(tree_flatten(backbone.module.parameters()))
    refuse_unfit(path, weights, current, names, saved_tables)
    backbone.module.load_weights(list(weights.items()), strict=False)
    tables = unfreeze_tables(backbone, embeddings=lora.train_embeddings, head=lora.train_head)
    for name in saved_tables:
        known[name].unfreeze()
    tables = list(dict.fromkeys([*saved_tables, *tables]))
    config = {**config, "lora_parameters": {**settings, "dropout": dropout}}
    return {**config, "trained_tables": tables} if tables else config


def _refuse_other_tables(
    path: str, backbone: MlxVlmBackbone, modules: Mapping[str, nn.Module], saved: Collection[str]
) -> None:
    """Refuse an adapter beside a table that was trained with another one: the base's own is not kept.

    Raises:
        CheckpointError: The model has such a table.
    """
    tables = [*find_tables(backbone), *([] if backbone.head is None else [backbone.head.name])]
    for name in tables:
        # All is frozen when a model is loaded.
        if name not in saved and modules[name].trainable_parameters():
            msg = f"{path}: brings no {name}, and the model has the one of an adapter before; load the model anew"
            raise CheckpointError(msg)


def _settle_quantization(
    path: str,
    config: Mapping[str, Any],
    known: Mapping[str, nn.Module],
    quantized: Mapping[str, Any] | None,
    *,
    has_base: bool,
) -> dict[str, Any]:
    """Record the current quantization of the base in an adapter's configuration.

    Raises:
        CheckpointError: The adapter was trained on another quantization.
    """
    saved = config.get("base_quantization") or {}
    if (foreign := next((name for name in saved if name not in known), None)) is not None:
        msg = f"{path}: base_quantization has {foreign}, which the model has not; was it trained on another model?"
        raise CheckpointError(msg)
    if quantized is None:
        packed = {name: known[name] for name in saved if hasattr(known.get(name), "bits")}
        quantized = {name: {key: getattr(packed[name], key) for key in SCHEME} for name in packed}
    if saved and dict(quantized) != saved and not (has_base and KEY in config):
        bits = next((layer.get("bits") for layer in saved.values() if isinstance(layer, dict)), "other")
        msg = f"{path}: was trained on a base quantized to {bits} bits; set model.quantize_bits = {bits}"
        raise CheckpointError(msg)
    config = {key: value for key, value in config.items() if key != "base_quantization"}
    return {**config, "base_quantization": dict(quantized)} if quantized else config


def _can_adapt(module: nn.Module | None) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear)) or (module is not None and targets.is_experts(module))


def _refuse_changes(
    path: str, names: list[str], config: Mapping[str, Any], asked: LoraSection, backbone: MlxVlmBackbone
) -> None:
    """Refuse keys of a recipe that contradict a saved adapter."""
    default, settings = LoraSection(), config["lora_parameters"]
    own = {"rank": settings["rank"], "method": config["fine_tune_type"]}
    # The alpha that gives the saved scale with the recipe's divisor.
    own["alpha"] = settings["scale"] * (settings["rank"] ** 0.5 if asked.rslora else settings["rank"])
    for key, found in own.items():
        wanted = getattr(asked, key)
        if wanted not in (found, getattr(default, key)):
            msg = f"lora.{key}: found {wanted}, but the adapter {path} has {found}; leave it out"
            raise CheckpointError(msg)
    if asked.targets or asked.last_layers is not None:
        wanted = targets.resolve_target_modules(backbone.module, backbone.layout, asked)
        if set(wanted) != set(names):
            key = "targets" if asked.targets else "last_layers"
            msg = f"lora.{key}: names {len(wanted)} layers, the adapter {path} has {len(names)}; leave it out"
            raise CheckpointError(msg)
