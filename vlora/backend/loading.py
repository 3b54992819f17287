"""Models and processors: found, checked, loaded, made trainable, written."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_vlm import utils as mlx_vlm_utils

from .. import adapters, targets
from ..checkpoint import read_arrays
from ..errors import CheckpointError, ModelError
from ..recipe import LoraSection, ModelSection
from .backbone import MlxVlmBackbone, find_layout
from .configs import read_fields, translate_config
from .families import Family, describe_family
from .weights import load_module, reads_alike

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embedding", "embed_in")
"""Last parts of the names of token embeddings."""

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".safetensors.index.json")


@attrs.frozen(eq=False, kw_only=True)
class ModelFiles:
    """A model's folder and what its configuration says.

    Attributes:
        path: The folder.
        config: Its config.json, in the words that mlx-vlm reads.
        model_type: mlx-vlm's name of the architecture.
        family: How vlora runs it.
        is_translated: Whether the folder's own config.json says it in other words.
        is_misread: Whether mlx-vlm, given the folder, would take something else from those words, or nothing.
    """

    path: Path
    config: Mapping[str, Any]
    model_type: str
    family: Family
    is_translated: bool = False
    is_misread: bool = False


def find_model(section: ModelSection) -> ModelFiles:
    """Find a model's files, downloading them if the path is a hub id, and check that it can be trained.

    Raises:
        ModelError: There is no such model, it brings its own code, or its family is refused.
    """
    try:
        path = Path(mlx_vlm_utils.get_model_path(section.path))
        config = mlx_vlm_utils.load_config(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        msg = (
            f"model.path: there is no folder {section.path!r} with a config.json, and the hub gives none ({reason}); "
            "give a folder or a hub id"
        )
        raise ModelError(msg) from None
    if not section.trust_remote_code and config.get("model_file"):
        msg = (
            f"model.path: {section.path!r} brings Python code of its own ({config['model_file']}), which loading would "
            "run; set model.trust_remote_code = true if you trust it"
        )
        raise ModelError(msg)
    try:
        package, model_type = mlx_vlm_utils.get_model_and_args(dict(config), model_path=path)
    except (KeyError, ValueError) as error:
        msg = f"model.path: mlx-vlm has no architecture for {section.path!r} ({error})"
        raise ModelError(msg) from None
    family = describe_family(model_type)
    if family.refused:
        msg = f"model.path: models of the family {model_type} are not trained: {family.refused}"
        raise ModelError(msg)
    translated = translate_config(config, model_type, read_fields(package), section.path)
    is_translated = translated != config
    return ModelFiles(
        path=path,
        config=translated,
        model_type=model_type,
        family=family,
        is_translated=is_translated,
        is_misread=is_translated and not reads_alike(package, config, translated),
    )


def load_processor(files: ModelFiles, section: ModelSection) -> Any:
    """Load a model's processor.

    Raises:
        ModelError: The folder has none that works here.
    """
    eos = files.config.get("eos_token_id")
    try:
        # Some processors print while they load; what a program says is the command line's to decide.
        with contextlib.redirect_stdout(io.StringIO()):
            processor = mlx_vlm_utils.load_processor(
                files.path, True, eos_token_ids=eos, trust_remote_code=section.trust_remote_code
            )
            image_processor = mlx_vlm_utils.load_image_processor(files.path)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        msg = f"model.path: {section.path!r} has no processor that can be loaded: {error}"
        raise ModelError(msg) from None
    if image_processor is not None:
        processor.image_processor = image_processor
    return processor


def load_backbone(files: ModelFiles, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Load a model's weights, frozen, and quantize them if the recipe says so.

    Returns:
        The backbone, and how the base was quantized here (empty if it was not), as an adapter records it.

    Raises:
        ModelError: The weights do not fit the configuration.
    """
    try:
        module = load_module(files.path, files.config, files.model_type, is_translated=files.is_translated)
    except (OSError, ValueError, KeyError) as error:
        msg = f"model.path: cannot load the weights of {section.path!r}: {error}"
        raise ModelError(msg) from None
    restore(module, files.family, files.config)
    return prepare(module, files.family, section)


def restore(module: nn.Module, family: Family, config: Mapping[str, Any]) -> None:
    """Give a model the keys of config.json that mlx-vlm's configuration drops and its family needs."""
    for key in family.restored:
        if key in config:
            setattr(module.config, key, config[key])


def prepare(module: nn.Module, family: Family, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Freeze a model, quantize it if the recipe says so, and put each part into the mode in which it is trained.

    Returns:
        As `load_backbone`.
    """
    complete_modules(module)
    family.mend(module)
    module.freeze()
    prefix = find_prefix(module, family)
    quantized: dict[str, Any] = {}
    if section.quantize_bits is not None:
        layout = find_layout(family, prefix)
        quantized = adapters.quantize_language(module, layout, section.quantize_bits, section.quantize_group_size)
        mx.eval(module.parameters())
        module.freeze()
    backbone = MlxVlmBackbone(module, family, prefix)
    # The tower stays in evaluation mode: batch norms and stochastic depth must not act on a few images.
    for name, child in module.named_modules():
        trains = backbone.is_language(name) and not isinstance(child, nn.Dropout)
        child._training = trains  # noqa: SLF001 - `train()` would change its children too
    backbone.settle_head()
    return backbone, quantized


def complete_modules(module: nn.Module) -> None:
    """Let parts be modules whose constructors forget to say so; without it they can neither be frozen nor trained.

    `nn.Module.__init__` is missing in MiMo-V2's hearing (mimo_v2/audio.py:10, :40, :54).
    """
    for child in module.modules():
        if not hasattr(child, "_no_grad"):
            nn.Module.__init__(child)


def find_prefix(module: nn.Module, family: Family) -> str:
    """Name the language model within a model; the empty name is the model itself."""
    if family.language_model is not None:
        return family.language_model
    language_model = module.language_model
    return str(next(name for name, child in module.named_modules() if child is language_model))


def add_lora(backbone: MlxVlmBackbone, lora: LoraSection, *, seed: int, quantized: Mapping[str, Any]) -> dict[str, Any]:
    """Attach a LoRA to the layers that a recipe names, and unfreeze the tables that it trains whole.

    Returns:
        The adapter's configuration: what mlx-vlm needs to attach the same layers.

    Raises:
        ModelError: A target that matches nothing, or an adapter that cannot be made.
    """
    names = targets.find_targets(backbone.module, backbone.layout, lora)
    refuse_dropout_in_tower(backbone, names, lora)
    adapters.attach_lora(
        backbone.module,
        names,
        rank=lora.rank,
        scale=scale_of(lora),
        dropout=lora.dropout,
        method=lora.method,
        init=lora.init,
        seed=seed,
    )
    tables = unfreeze_tables(backbone, embeddings=lora.train_embeddings, head=lora.train_head)
    return lora_config(backbone, names, lora, quantized, tables)


def scale_of(lora: LoraSection) -> float:
    """Say what the product of an adapter's factors is multiplied with.

    rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732) divides by the root of the rank, so that the size of the update does
    not fall with it.
    """
    return lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)


def refuse_dropout_in_tower(backbone: MlxVlmBackbone, names: Iterable[str], lora: LoraSection) -> None:
    """Refuse what would be ignored: embedding runs twice in a step, and would drop other inputs each time.

    Raises:
        ModelError: Dropout is asked for together with adapters outside of the language model.
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
    """Write an adapter's configuration as mlx-vlm reads it.

    mlx-vlm attaches layers that are named one by one, or all layers of the stack; only in the second way it knows
    experts (adapter_utils.py:43, peft/utils.py:45). Layers of the stack that were not adapted then add nothing.
    """
    modules = dict(adapters.lora_layers(backbone.module))
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
    """Make the token embeddings and the head trainable, all of their weights.

    Returns:
        The names of the modules; one for both where the head is the embeddings' table.

    Raises:
        ModelError: There is none, or it is quantized.
    """
    modules = dict(backbone.module.named_modules())
    names: list[str] = []
    if embeddings:
        tables = [
            name
            for name, module in modules.items()
            if name.rpartition(".")[2] in EMBEDDINGS
            and backbone.is_language(name)
            and isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
        ]
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
        _refuse_quantized(modules[name], "lora.train_embeddings" if embeddings else "lora.train_head")
        modules[name].unfreeze()
    return names


def unfreeze_language(backbone: MlxVlmBackbone) -> None:
    """Make all of the language model trainable.

    Raises:
        ModelError: Its weights are quantized.
    """
    _refuse_quantized(backbone.language_model, "model.full_finetune")
    backbone.language_model.unfreeze()


def unfreeze_vision(backbone: MlxVlmBackbone) -> None:
    """Make the vision tower and the connector trainable.

    Raises:
        ModelError: Those weights are quantized.
    """
    for name, child in backbone.module.named_modules():
        if backbone.layout.part(name) in ("vision", "connector"):
            _refuse_quantized(child, "model.train_vision", recurse=False)
            child.unfreeze(recurse=False)


def _refuse_quantized(module: nn.Module, key: str, *, recurse: bool = True) -> None:
    for name, child in module.named_modules() if recurse else [("", module)]:
        if isinstance(child, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            msg = (
                f"{key}: {name or 'the module'} is quantized, and packed weights cannot be trained; use a base in bf16"
            )
            raise ModelError(msg)


def load_adapter(
    backbone: MlxVlmBackbone, path: str, lora: LoraSection, quantized: Mapping[str, Any]
) -> dict[str, Any]:
    """Attach a saved adapter, to be trained on.

    Its rank, scale and layers are its own; a recipe may repeat them, not change them. The dropout may change.

    Args:
        backbone: The model, without adapters.
        path: The adapter's file, or its folder.
        lora: The recipe's section.
        quantized: How the base was quantized on loading.

    Returns:
        Its configuration.

    Raises:
        CheckpointError: No such adapter, or one for another model.
    """
    weights_path, config = read_adapter(path)
    settings = config.get("lora_parameters", {})
    names = config.get("adapted_layers", settings.get("keys"))
    method = config.get("fine_tune_type")
    if method not in ("lora", "dora") or names is None:
        msg = f"{path}: found an adapter of type {method!r} without a list of layers; expected a LoRA or DoRA"
        raise CheckpointError(msg)
    saved_base = config.get("base_quantization", {})
    if saved_base and dict(quantized) != saved_base:
        bits = next(iter(saved_base.values()))["bits"]
        msg = f"{path}: was trained on a base quantized to {bits} bits; set model.quantize_bits = {bits}"
        raise CheckpointError(msg)
    known = dict(backbone.module.named_modules())
    missing = [name for name in names if not _can_adapt(known.get(name))]
    if missing:
        msg = f"{path}: adapts {missing[0]}, which the model does not have; was it trained on another model?"
        raise CheckpointError(msg)
    rank, scale = int(settings["rank"]), float(settings["scale"])
    _refuse_changes(path, names, config, lora, backbone)
    dropout = settings["dropout"] if lora.dropout == LoraSection().dropout else lora.dropout
    refuse_dropout_in_tower(backbone, names, attrs.evolve(lora, dropout=dropout))
    adapters.attach_lora(backbone.module, names, rank=rank, scale=scale, dropout=dropout, method=method)
    weights = read_arrays(weights_path)
    current = dict(tree_flatten(backbone.module.parameters()))
    wrong = [name for name, value in weights.items() if name not in current or current[name].shape != value.shape]
    absent = [name for name in current if name.endswith((".lora_a", ".lora_b")) and name not in weights]
    if wrong or absent:
        msg = f"{path}: does not fit the model at {(wrong + absent)[0]}; was it trained on another model or rank?"
        raise CheckpointError(msg)
    backbone.module.load_weights(list(weights.items()), strict=False)
    tables = unfreeze_tables(backbone, embeddings=lora.train_embeddings, head=lora.train_head)
    for name in config.get("trained_tables", ()):
        known[name].unfreeze()
    tables = list(dict.fromkeys([*config.get("trained_tables", ()), *tables]))
    config = {**config, "lora_parameters": {**settings, "dropout": dropout}}
    return {**config, "trained_tables": tables} if tables else config


def _can_adapt(module: nn.Module | None) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear)) or (module is not None and targets.is_experts(module))


def _refuse_changes(
    path: str, names: list[str], config: Mapping[str, Any], asked: LoraSection, backbone: MlxVlmBackbone
) -> None:
    """Refuse what a recipe says of a saved adapter that is not so."""
    default, settings = LoraSection(), config["lora_parameters"]
    own = {"rank": settings["rank"], "method": config["fine_tune_type"]}
    # What alpha was, if it was divided by what the recipe divides it by.
    own["alpha"] = settings["scale"] * (settings["rank"] ** 0.5 if asked.rslora else settings["rank"])
    for key, found in own.items():
        wanted = getattr(asked, key)
        if wanted not in (found, getattr(default, key)):
            msg = f"lora.{key}: found {wanted}, but the adapter {path} has {found}; leave it out"
            raise CheckpointError(msg)
    if asked.targets or asked.last_layers is not None:
        wanted = targets.find_targets(backbone.module, backbone.layout, asked)
        if set(wanted) != set(names):
            key = "targets" if asked.targets else "last_layers"
            msg = f"lora.{key}: names {len(wanted)} layers, the adapter {path} has {len(names)}; leave it out"
            raise CheckpointError(msg)


def read_adapter(path: str) -> tuple[Path, dict[str, Any]]:
    """Find an adapter's weights and its configuration beside them.

    Raises:
        CheckpointError: One of the two is missing.
    """
    weights = Path(path).expanduser()
    if weights.is_dir():
        weights = weights / "adapters.safetensors"
    config = weights.parent / "adapter_config.json"
    for file in (weights, config):
        if not file.is_file():
            msg = f"model.adapter_path: found no {file}; give the adapter's file, adapter_config.json beside it"
            raise CheckpointError(msg)
    return weights, json.loads(config.read_text())


def save_model(backbone: MlxVlmBackbone, base: ModelFiles, folder: Path) -> None:
    """Write a complete model: the base's configuration and processor, the weights as they are now.

    Args:
        backbone: The model, trained weights bound.
        base: The base model; its configuration is written in the words that mlx-vlm reads.
        folder: An empty folder.
    """
    for file in base.path.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES):
            shutil.copy(file, folder / file.name)
    if base.is_translated:
        # mlx-vlm has put the other file's content under that name.
        config = {key: value for key, value in base.config.items() if key != "generation_config"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    mlx_vlm_utils.save_weights(folder, backbone.module)


@contextlib.contextmanager
def generating(backbone: MlxVlmBackbone) -> Iterator[nn.Module]:
    """Put the model into the mode in which it answers, and back into the one in which it trains."""
    modes = [(child, child.training) for _, child in backbone.module.named_modules()]
    backbone.module.eval()
    try:
        yield backbone.module
    finally:
        for child, training in modes:
            child._training = training  # noqa: SLF001 - `train()` would change its children too
