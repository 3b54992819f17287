"""Models and processors: found, checked, loaded, written."""

import contextlib
import io
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import mlx.nn as nn
from huggingface_hub.errors import HFValidationError
from mlx.utils import tree_map
from mlx_vlm import utils as mlx_vlm_utils

from ...errors import ModelError
from ...recipe.converter import show
from ...recipe.schema import ModelSection
from ..backbone.backbone import MlxVlmBackbone, find_layout
from ..backbone.fused import find_fused_modules
from ..backbone.head import is_packed_head, pack_head, unpack_head
from ..backbone.outcomes import Outcomes, open_outcomes
from ..families.family import Family
from ..families.registry import describe_family
from .added_tokens import Numbered, extend_tokenizer, grow_config, without_adapters, write_tokenizer
from .annotations import find_misfits
from .config_translation import find_scaling, read_fields, translate_config
from .model_folder import CONFIG_NAME, DESCRIBING, blaming, check_folder, check_tokenizer, check_weights
from .quantize import quantize_language
from .rope_scaling import scale_rotations
from .weights import build_module, load_module, reads_alike

BELONGING = "config.json and the weights have to be of one model"
MEDIA_KEYS = tuple(f"{kind}_token_{what}" for kind in ("image", "video", "audio") for what in ("id", "index"))
"""Keys of config.json with ids that stand for other things than text."""

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".safetensors.index.json")


@attrs.frozen(eq=False, kw_only=True)
class ModelFiles:
    """A model's folder and what its configuration says.

    Attributes:
        path: The folder.
        config: Its config.json, in the words that mlx-vlm reads.
        model_type: mlx-vlm's name of the architecture.
        family: How vlora runs it.
        hub_id: Where its weights come from; None if they are in the folder.
        is_translated: Whether the folder's own config.json says it in other words.
        config_differs_upstream: Whether mlx-vlm, given the folder, would read something else, or nothing.
        added: Tokens that it gets besides its own.
    """

    path: Path
    config: Mapping[str, Any]
    model_type: str
    family: Family
    hub_id: str | None = None
    is_translated: bool = False
    config_differs_upstream: bool = False
    added: tuple[str, ...] = ()


def find_model(section: ModelSection) -> ModelFiles:
    """Find a model's files and check that it can be trained; of a hub id all but the weights is downloaded.

    Raises:
        ModelError: There is no such model, it brings its own code, or its family is refused.
    """
    path = _find_folder(section)
    with blaming(f"cannot read {path / CONFIG_NAME}", path):
        config = mlx_vlm_utils.load_config(path)
    if not section.trust_remote_code and config.get("model_file"):
        msg = (
            f"model.path: {section.path!r} brings Python code of its own ({config['model_file']}), which loading would "
            "run; set model.trust_remote_code = true if you trust it"
        )
        raise ModelError(msg)
    package, model_type = _find_package(path, config)
    family = describe_family(model_type)
    if family.refused:
        msg = f"model.path: models of the family {model_type} are not trained: {family.refused}"
        raise ModelError(msg)
    fields = read_fields(package)
    with blaming(f"cannot read {path / CONFIG_NAME}", path):
        translated = translate_config(config, model_type, fields, section.path)
    is_translated = translated != config
    return ModelFiles(
        path=path,
        config=translated,
        model_type=model_type,
        family=family,
        hub_id=None if Path(section.path).exists() else section.path,
        is_translated=is_translated,
        config_differs_upstream=(is_translated and not reads_alike(package, config, translated))
        or (find_scaling(config) is not None and not fields.text & {"rope_scaling", "rope_parameters"}),
    )


def _find_folder(section: ModelSection) -> Path:
    """Find a model's folder, and check what describes it."""
    local, found = Path(section.path), f"there is no folder {section.path!r}"
    try:
        path = Path(mlx_vlm_utils.get_model_path(section.path, allow_patterns=DESCRIBING))
        is_model = (path / CONFIG_NAME).exists() or (path / CONFIG_NAME).is_symlink()
        if not is_model:
            what = "the folder" if path.is_dir() else "the file"
            found = f"{what} {section.path!r} is no model's, it has no {CONFIG_NAME}"
            if path != local:
                found = f"the hub's {section.path!r} is no model, it has no {CONFIG_NAME}"
    except (OSError, ValueError) as error:
        is_model = False
        # What cannot be a hub id is a folder that somebody expected, and the hub was not asked.
        if not isinstance(error, HFValidationError):
            found += f", and the hub gives none ({str(error).strip().splitlines()[0].rstrip('.')})"
    if not is_model:
        msg = f"model.path: {found}; give a model's folder or a hub id"
        raise ModelError(msg)
    check_folder(path)
    return path


def _find_package(path: Path, config: Mapping[str, Any]) -> tuple[Any, str]:
    """Find a family's package in mlx-vlm and its name; check the configuration against its classes."""
    found = config.get("model_type")
    what = f"{path / CONFIG_NAME}: model_type: found {show(found)}, for which mlx-vlm has no architecture"
    with blaming(what, path):
        package, model_type = mlx_vlm_utils.get_model_and_args(dict(config), model_path=path)
    if misfits := sorted(find_misfits(package, config)):
        msg = f"model.path: {path / CONFIG_NAME}: {'; '.join(misfits[:3])}"
        raise ModelError(msg)
    return package, model_type


def load_processor(files: ModelFiles, section: ModelSection) -> Any:
    """Load a model's processor; its tokenizer has the tokens that the model gets.

    Raises:
        ModelError: The folder has none that works here, or its tokenizer does not take the tokens.
    """
    processor = _load_processor(files, section)
    if files.added:
        extend_tokenizer(processor, files.added)
    return processor


def number_added(files: ModelFiles, section: ModelSection) -> Numbered:
    """Say which ids the tokens have that a model gets; where it gets none, its processor is not loaded.

    Raises:
        ModelError: As for `load_processor`, or an id stands for images in the model.
    """
    if not files.added:
        return Numbered({}, frozenset())
    numbered = extend_tokenizer(_load_processor(files, section), files.added)
    taken = {files.config.get(key): key for key in MEDIA_KEYS if files.config.get(key) is not None}
    for token, number in numbered.ids.items():
        if number in taken:
            msg = (
                f"model.add_tokens: {token!r} would get the id {number}, which config.json has for something else "
                f"({taken[number]}); leave it out"
            )
            raise ModelError(msg)
    return numbered


def _load_processor(files: ModelFiles, section: ModelSection) -> Any:
    eos = files.config.get("eos_token_id")
    check_tokenizer(files.path)
    what = f"{section.path!r} has no processor that can be loaded"
    # Some processors print while they load; what a program says is the command line's to decide.
    with blaming(what, files.path), contextlib.redirect_stdout(io.StringIO()):
        processor = mlx_vlm_utils.load_processor(
            files.path, True, eos_token_ids=eos, trust_remote_code=section.trust_remote_code
        )
        image_processor = mlx_vlm_utils.load_image_processor(files.path)
    if image_processor is not None:
        processor.image_processor = image_processor
    return processor


def abstract_backbone(files: ModelFiles, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Make a model of the right shapes and types without reading its weights; every number is 0 and takes no memory.

    Returns:
        As `load_backbone`.

    Raises:
        ModelError: What is there of the weights does not fit the configuration.
    """
    with blaming(f"cannot build the model of {section.path!r}", files.path):
        if any(files.path.glob("*.safetensors")):
            # Their headers say how each layer is stored; the arrays are only promised.
            check_weights(files.path)
            module = load_module(
                files.path, files.config, files.model_type, is_translated=files.is_translated, is_lazy=True
            )
        else:
            module = build_module(files.path, files.config)
    restore(module, files.family, files.config)
    return prepare(module, files.family, section, is_abstract=True)


def load_backbone(files: ModelFiles, section: ModelSection) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Load a model's weights, frozen, and quantize them if the recipe says so; those of a hub id are downloaded first.

    Returns:
        The backbone, and how the base was quantized here (empty if it was not), as an adapter records it.

    Raises:
        ModelError: There are no weights, or they do not fit the configuration.
    """
    with blaming(f"cannot load the weights of {section.path!r}", files.path, BELONGING):
        if files.hub_id is not None:
            # A snapshot's folder is named by its commit: the weights are those that the configuration came with.
            mlx_vlm_utils.get_model_path(files.hub_id, revision=files.path.name)
        check_weights(files.path)
        module = load_module(files.path, files.config, files.model_type, is_translated=files.is_translated)
    if scaling := find_scaling(files.config):
        parts = dict(module.named_modules())
        scale_rotations(parts[find_prefix(module, files.family)], scaling, section.path)
    restore(module, files.family, files.config)
    return prepare(module, files.family, section, config=files.config)


def restore(module: nn.Module, family: Family, config: Mapping[str, Any]) -> None:
    """Give a model the keys of config.json that mlx-vlm's configuration drops and its family needs."""
    for key in family.forward.config_keys:
        if key in config:
            setattr(module.config, key, config[key])


def prepare(
    module: nn.Module,
    family: Family,
    section: ModelSection,
    *,
    is_abstract: bool = False,
    config: Mapping[str, Any] | None = None,
) -> tuple[MlxVlmBackbone, dict[str, Any]]:
    """Freeze a model, quantize it if the recipe says so, and put each part into the mode in which it is trained.

    Args:
        module: The model.
        family: Its description.
        section: What the recipe says of it.
        is_abstract: Whether only its shapes count: nothing is computed, and its head is believed unseen.
        config: Its config.json, by which what its checks find is remembered; None if it is not to be.

    Returns:
        As `load_backbone`.
    """
    complete_modules(module)
    if is_abstract:
        blank(module)
    family.forward.fix_weights(module)
    module.freeze()
    prefix = find_prefix(module, family)
    quantized: dict[str, Any] = {}
    if section.quantize_bits is not None:
        layout = find_layout(family, prefix)
        _refuse_quantizing_again(module, prefix, section.path)
        quantized = quantize_language(module, layout, section.quantize_bits, section.quantize_group_size)
        if is_abstract:
            blank(module)
        else:
            mx.eval(module.parameters())
        module.freeze()
    backbone = MlxVlmBackbone(module, family, prefix)
    # The tower stays in evaluation mode: batch norms and stochastic depth must not act on a few images.
    for name, child in module.named_modules():
        trains = backbone.is_language(name) and not isinstance(child, nn.Dropout)
        child._training = trains  # noqa: SLF001 - `train()` would change its children too
    if is_abstract:
        backbone.detect_head(is_verified=False)
        backbone.lean_parts = find_fused_modules(backbone.language_model, is_verified=False)
    else:
        _check(backbone, Outcomes() if config is None else open_outcomes(config, module))
    return backbone, quantized


def _check(backbone: MlxVlmBackbone, outcomes: Outcomes) -> None:
    """Find the head of a model and what of it runs leaner, by computing or as it was found before."""

    def find() -> dict[str, Any] | None:
        backbone.detect_head()
        return pack_head(backbone.head)

    found = outcomes.settle("head", find, is_valid=lambda packed: is_packed_head(packed, backbone.module))
    backbone.head = unpack_head(found)
    backbone.lean_parts = find_fused_modules(backbone.language_model, outcomes=outcomes)
    outcomes.save()


def blank(module: nn.Module) -> None:
    """Let every weight be 0, one number that all places share."""
    module.update(tree_map(lambda value: mx.broadcast_to(mx.zeros((), value.dtype), value.shape), module.parameters()))


def _refuse_quantizing_again(module: nn.Module, prefix: str, path: str) -> None:
    for name, layer in module.named_modules():
        if name.startswith(prefix) and isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            msg = f"model.quantize_bits: {path!r} is quantized already ({layer.bits} bits, {layer.mode}); leave it out"
            raise ModelError(msg)


def complete_modules(module: nn.Module) -> None:
    """Let parts be modules whose constructors forget to say so; without it they can neither be frozen nor trained.

    `nn.Module.__init__` is missing in MiMo-V2's hearing (mimo_v2/audio.py:10, :40, :54).
    """
    for child in module.modules():
        if not hasattr(child, "_no_grad"):
            nn.Module.__init__(child)


def find_prefix(module: nn.Module, family: Family) -> str:
    """Name the language model within a model; the empty name is the model itself."""
    if family.parts.language_model is not None:
        return family.parts.language_model
    language_model = module.language_model
    return str(next(name for name, child in module.named_modules() if child is language_model))


def save_model(
    backbone: MlxVlmBackbone, base: ModelFiles, folder: Path, leave: Collection[str] = (), tokenizer: Any = None
) -> None:
    """Write a complete model: the base's configuration and processor, the weights as they are now, but no adapters.

    Args:
        backbone: The model, trained weights bound.
        base: The base model; its configuration is written in the words that mlx-vlm reads.
        folder: An empty folder.
        leave: Names of files of the base's folder that are not the model's.
        tokenizer: Has the tokens that the model got; only asked if it did.
    """
    for file in companions(base, leave):
        shutil.copy(file, folder / file.name)
    config: Mapping[str, Any] | None = None
    if base.added:
        config = grow_config(base.config, backbone, base.path)
        write_tokenizer(tokenizer, base.added, folder)
    elif base.is_translated:
        # mlx-vlm has put the other file's content under that name.
        config = {key: value for key, value in base.config.items() if key != "generation_config"}
    if config is not None:
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with without_adapters(backbone.module):
        mlx_vlm_utils.save_weights(folder, backbone.module)


def companions(base: ModelFiles, leave: Collection[str] = ()) -> list[Path]:
    """List the files of a model besides its weights.

    Args:
        base: The model.
        leave: Names of files of its folder that are not the model's.
    """
    files = sorted(base.path.iterdir())
    return [
        file for file in files if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES) and file.name not in leave
    ]


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
