"""Adapters of other programs, written as mlx-vlm and vlora read them."""

from pathlib import Path

import attrs
from mlx.utils import tree_flatten

from .. import models
from ..errors import CheckpointError
from ..models.load.adapter_files import ARGUMENT, is_peft, named_base, read_adapter
from ..output.atomic import write_whole_folder
from ..output.base_identity import KEY
from ..output.checkpoint import save_adapter
from ..recipe.schema import ModelSection
from ..run.origin import find_built_in
from .destination import find_destination
from .saved import send_to_import

WEIGHTS_NAME = "adapters.safetensors"


@attrs.frozen(kw_only=True)
class Imported:
    """An adapter that was written.

    Attributes:
        folder: Where.
        base: What it names as its base.
        n_layers: How many layers it adapts.
        rank: Of each.
        method: "lora" or "dora".
        tables: What was trained whole.
        note: That it may have been trained on another model; None if that is as it names it.
    """

    folder: Path
    base: str
    n_layers: int
    rank: int
    method: str
    tables: tuple[str, ...]
    note: str | None


def import_adapter(path: str, model: str | None = None, out: Path | None = None) -> Imported:
    """Write an adapter of PEFT or mlx-lm as vlora's own.

    Args:
        path: Its folder, or its file of arrays.
        model: The base, a folder or a hub id; what the adapter names, if None.
        out: The folder; `mlx` beside the adapter's files, if None.

    Raises:
        VloraError: It cannot be read, does not fit the base, or has something for which there is no form.
        RecipeError: Something is in the folder already.
    """
    weights, config = read_adapter(path, ARGUMENT)
    folder = find_destination(out, weights.parent / "mlx")
    base = model or named_base(config)
    if base is not None and model is None:
        base = find_built_in(base, weights)
    if base is None:
        msg = f"{weights}: does not say on which model it was trained; name that with --model"
        raise CheckpointError(msg)
    revision = config.get("revision") if is_peft(config) and model is None and not Path(base).exists() else None
    section = ModelSection(path=base, revision=revision)
    files = models.find_model(section)
    models.fetch_weights(files)
    backbone, _ = models.abstract_backbone(files, section)
    found = models.load_adapter(backbone, path, files=files)
    trained = dict(tree_flatten(backbone.module.trainable_parameters()))
    identity = {} if backbone.base is None else {KEY: backbone.base.dump()}
    version = {} if files.commit is None else {"base_revision": files.commit}
    own = {**found, "base_model": base, **version, **identity}
    write_whole_folder(folder, lambda partial: save_adapter(partial / WEIGHTS_NAME, trained, own))
    settings = found["lora_parameters"]
    return Imported(
        folder=folder,
        base=base,
        n_layers=len(found.get("adapted_layers") or settings["keys"]),
        rank=settings["rank"],
        method=found["fine_tune_type"],
        tables=tuple(found.get("trained_tables", ())),
        # Where the adapter says no more than a name, and that is taken, there is nothing to compare.
        note=backbone.base_note if KEY in config or base != named_base(config) else None,
    )


def refuse_foreign(name: str, source: Path, repo: str) -> None:
    """Refuse to push an adapter of which a card could not say what it is, since it does not say that itself.

    Raises:
        CheckpointError: It is PEFT's, or names no layers or no base.
    """
    path, config = read_adapter(name, ARGUMENT)
    if is_peft(config):
        msg = (
            f"{source}: is in PEFT's layout; `hf upload {repo} {name}` takes it, and `python -m vlora import` reads it"
        )
        raise CheckpointError(msg)
    base = (config.get(KEY) or {}).get("path") or config.get("base_model")
    if not base or not (config.get("adapted_layers") or (config.get("lora_parameters") or {}).get("keys")):
        raise CheckpointError(send_to_import(path, name, base, "push"))
