"""Finds a model's files, describes them, and loads its processor."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from huggingface_hub.errors import HFValidationError
from mlx_vlm import utils as mlx_vlm_utils

from ...errors import ModelError
from ...recipe.converter import show
from ...recipe.schema import ModelSection
from ..families.family import Family
from ..families.registry import describe_family
from .added_tokens import Numbered, extend_tokenizer
from .annotations import find_misfits
from .config_translation import read_fields, translate_config
from .model_folder import CONFIG_NAME, DESCRIBING, blaming, check_folder, check_tokenizer
from .rope_scaling import find_scaling
from .weights import reads_alike

MEDIA_KEYS = tuple(f"{kind}_token_{what}" for kind in ("image", "video", "audio") for what in ("id", "index"))
"""Keys of config.json with ids that do not stand for text."""


@attrs.frozen(eq=False, kw_only=True)
class ModelFiles:
    """A model's folder and its configuration.

    Attributes:
        path: The folder.
        config: Its config.json, in mlx-vlm's format.
        model_type: mlx-vlm's name of the architecture.
        family: How vlora runs it.
        hub_id: The hub id of its weights; None if they are in the folder.
        is_translated: Whether the folder's own config.json has another format.
        config_differs_upstream: Whether mlx-vlm would read another configuration from the folder, or fail.
        added: Tokens that are added to its own.
    """

    path: Path
    config: Mapping[str, Any]
    model_type: str
    family: Family
    hub_id: str | None = None
    is_translated: bool = False
    config_differs_upstream: bool = False
    added: tuple[str, ...] = ()

    @property
    def commit(self) -> str | None:
        """The commit of the hub's files, which is the name of a snapshot's folder; None for a local folder."""
        return None if self.hub_id is None else self.path.name


def find_model(section: ModelSection) -> ModelFiles:
    """Find a model's files and check that it can be trained; for a hub id everything except the weights is downloaded.

    Raises:
        ModelError: There is no such model, it brings its own code, or its family is refused.
    """
    path = _find_folder(section)
    with blaming(f"cannot read {path / CONFIG_NAME}", path):
        config = mlx_vlm_utils.load_config(path)
    if not section.trust_remote_code and config.get("model_file"):
        msg = (
            f"{section.path!r} brings Python code of its own ({config['model_file']}), which loading would "
            "run; set model.trust_remote_code = true if you trust it"
        )
        raise ModelError(msg, key="model.path")
    package, model_type = _find_package(path, config)
    family = describe_family(model_type)
    if family.refused:
        msg = f"models of the family {model_type} are not trained: {family.refused}"
        raise ModelError(msg, key="model.path")
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
    """Find a model's folder, and check its JSON files."""
    local, found = Path(section.path), f"there is no folder {section.path!r}"
    if section.revision is not None and local.exists():
        msg = f"found {section.revision!r}, and {section.path!r} is a folder: only a hub id has versions"
        raise ModelError(msg, key="model.revision")
    try:
        describing = mlx_vlm_utils.get_model_path(section.path, revision=section.revision, allow_patterns=DESCRIBING)
        path = Path(describing)
        is_model = (path / CONFIG_NAME).exists() or (path / CONFIG_NAME).is_symlink()
        if not is_model:
            what = "the folder" if path.is_dir() else "the file"
            found = f"{what} {section.path!r} is no model's, it has no {CONFIG_NAME}"
            if path != local:
                found = f"the hub's {section.path!r} is no model, it has no {CONFIG_NAME}"
    except (OSError, ValueError) as error:
        is_model = False
        # An invalid hub id is meant as a folder; the hub was not asked.
        if not isinstance(error, HFValidationError):
            version = "none" if section.revision is None else f"no version {section.revision!r}"
            found += f", and the hub gives {version} ({str(error).strip().splitlines()[0].rstrip('.')})"
    if not is_model:
        if section.path.startswith("builtin:"):
            # Commands find models only; a recipe's one is built before.
            found = f"training builds {section.path!r}, in a folder of its own beside its output"
        msg = f"{found}; give a model's folder or a hub id"
        raise ModelError(msg, key="model.path")
    check_folder(path)
    return path


def _find_package(path: Path, config: Mapping[str, Any]) -> tuple[Any, str]:
    """Find a family's package in mlx-vlm and its name; check the configuration against its classes."""
    found = config.get("model_type")
    what = f"{path / CONFIG_NAME}: model_type: found {show(found)}, for which mlx-vlm has no architecture"
    with blaming(what, path):
        package, model_type = mlx_vlm_utils.get_model_and_args(dict(config), model_path=path)
    if misfits := sorted(find_misfits(package, config)):
        msg = f"{path / CONFIG_NAME}: {'; '.join(misfits[:3])}"
        raise ModelError(msg, key="model.path")
    return package, model_type


def load_processor(files: ModelFiles, section: ModelSection) -> Any:
    """Load a model's processor; its tokenizer has the tokens that the model gets.

    Raises:
        ModelError: The folder has no processor that works here, or its tokenizer cannot be extended.
    """
    processor = _load_processor(files, section)
    if files.added:
        extend_tokenizer(processor, files.added)
    return processor


def number_added(files: ModelFiles, section: ModelSection) -> Numbered:
    """Return the ids of a model's added tokens; without any, its processor is not loaded.

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
                f"{token!r} would get the id {number}, which config.json has for something else "
                f"({taken[number]}); leave it out"
            )
            raise ModelError(msg, key="model.add_tokens")
    return numbered


def load_tokenizer(files: ModelFiles) -> Any:
    """Load a model's tokenizer; it has the tokens that the model gets.

    Raises:
        ModelError: As for `load_processor`.
    """
    processor = load_processor(files, ModelSection(path=str(files.path)))
    return getattr(processor, "tokenizer", processor)


def _load_processor(files: ModelFiles, section: ModelSection) -> Any:
    eos = files.config.get("eos_token_id")
    check_tokenizer(files.path)
    what = f"{section.path!r} has no processor that can be loaded"
    # Some processors print while they load; only the command line prints.
    with blaming(what, files.path), contextlib.redirect_stdout(io.StringIO()):
        processor = mlx_vlm_utils.load_processor(
            files.path, True, eos_token_ids=eos, trust_remote_code=section.trust_remote_code
        )
        image_processor = mlx_vlm_utils.load_image_processor(files.path)
    if image_processor is not None:
        processor.image_processor = image_processor
    return processor
