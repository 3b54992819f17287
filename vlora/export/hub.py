"""A run taken to the Hugging Face hub: its adapter or model, a card, a picture of its losses, and its recipe."""

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
import tomli_w
from huggingface_hub import HfApi, ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from ..errors import CheckpointError, HubError, RecipeError
from ..models.foreign import foreign
from ..models.load.adapter_files import ARGUMENT, read_adapter
from ..models.load.documents import read_object
from ..models.published.transformers_names import AUTO, find_transformers_names
from ..output.atomic import PARTIAL, write_whole_folder
from ..output.base_identity import KEY
from ..output.checkpoint import CONFIG_NAME, find_state
from ..output.paths import ADAPTER_NAME, BEST_NAME, METRICS_NAME, RECIPE_NAME, STATE_NAME, WEIGHTS_SUFFIX
from ..report.run.figures import name_score, score_names, score_series
from ..report.run.live import write_plot
from ..report.run.run_files import read_log, read_recipe
from ..report.run.versions import find_versions
from ..run.origin import is_adapter
from ..run.save import NOT_A_MODELS
from ..system.files import expand
from ..system.globs import is_pattern
from ..system.nouns import with_noun
from ..system.redaction import redact
from .card import (
    CURVES,
    PATH_KEYS,
    SOURCE_PATHS,
    SOURCES,
    Described,
    name_place,
    source_key,
    without_places,
    write_card,
)
from .destination import find_destination
from .foreign import refuse_foreign
from .fuse import FOLDER as FUSED_NAME
from .vllm import find_vllm_rank

FOLDER = "hub"
"""Beside a run's files, where what would be pushed is written."""

CARD_NAME = "README.md"


@attrs.frozen(kw_only=True)
class Pushed:
    """What was pushed, or would be.

    Attributes:
        repo: The repository.
        address: Where it is; None where nothing was uploaded.
        folder: What would be uploaded; None where it was.
        files: Names of its files.
        n_bytes: Their size.
    """

    repo: str
    address: str | None
    folder: Path | None
    files: tuple[str, ...]
    n_bytes: int


def push(
    name: str,
    repo: str,
    *,
    is_private: bool = False,
    is_dry: bool = False,
    out: Path | None = None,
    shows_progress: bool = False,
) -> Pushed:
    """Upload an adapter or a model with a card that says how it was made.

    Rows, answers, logs and training states stay here, and so do paths of the machine.

    Args:
        name: An adapter's file or folder, or a trained model's folder.
        repo: "owner/name", or "name" for the owner of the token.
        is_private: Whether the repository, if it is new, is seen by its owner only.
        is_dry: Only write the folder.
        out: The folder of a dry run; "hub" beside the run's files without one.
        shows_progress: Let the client show how far it is.

    Raises:
        VloraError: There is no such adapter or model, or no such name of a repository.
        HubError: The hub refuses it or does not answer.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        msg = f"--repo: found {repo!r}, which is no name of a repository ({error})"
        raise RecipeError(msg) from None
    source = expand(name)
    has_adapter = is_adapter(name)
    if not has_adapter and not (source / "config.json").is_file():
        msg = f"{source}: is neither an adapter nor a model's folder; give the folder of a run"
        raise CheckpointError(msg)
    if has_adapter:
        refuse_foreign(name, source, repo)
    near = source.parent if source.suffix == WEIGHTS_SUFFIX else source

    def write(folder: Path) -> None:
        _write(name, repo, folder, has_adapter=has_adapter)

    if is_dry:
        folder = find_destination(out, near / FOLDER)
        write_whole_folder(folder, write)
        return _pushed(repo, folder, None)
    # On the same disk, so that large files need not be copied.
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=near) as place:
        folder = Path(place)
        write(folder)
        with nullcontext() if shows_progress else _without_progress():
            return _pushed(repo, folder, _upload(repo, folder, is_private=is_private))


@contextmanager
def _without_progress() -> Iterator[None]:
    """Let the client be silent while the context lasts: it has one setting for the whole process."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _pushed(repo: str, folder: Path, address: str | None) -> Pushed:
    files = sorted(folder.iterdir())
    return Pushed(
        repo=repo,
        address=address,
        folder=folder if address is None else None,
        files=tuple(file.name for file in files),
        n_bytes=sum(file.stat().st_size for file in files),
    )


def _upload(repo: str, folder: Path, *, is_private: bool) -> str:
    with foreign(functools.partial(_blame_hub, repo)):
        api = HfApi()
        full = api.create_repo(repo, private=is_private or None, exist_ok=True).repo_id
        info = api.upload_folder(repo_id=full, folder_path=folder, commit_message="Upload with vlora")
        return str(info.repo_url)


def _blame_hub(repo: str, error: Exception) -> HubError:
    """Say what the client has raised, of whichever HTTP library it uses."""
    # The client names the file, and as its cause what has happened.
    reasons = [" ".join(redact(str(found)).split())[:300] for found in (error, error.__cause__) if found is not None]
    said = ": ".join(reason.rstrip(".") for reason in reasons if reason) or type(error).__name__
    msg = f"{repo}: the hub did not take it ({said}); see `hf auth whoami`, or write the folder with --dry-run"
    return HubError(msg)


def _write(name: str, repo: str, folder: Path, *, has_adapter: bool) -> None:
    """Fill the folder that is uploaded."""
    if has_adapter:
        weights, config = read_adapter(name, ARGUMENT)
        run = _find_run(weights.parent)
        _put(weights, folder / ADAPTER_NAME)
        (folder / CONFIG_NAME).write_text(json.dumps(_without_places(config), indent=2) + "\n", encoding="utf-8")
    else:
        source = expand(name)
        run = _find_run(source)
        # A fused model lies beside the adapter that it was made of.
        is_fused = run != source and (run / CONFIG_NAME).is_file()
        config = read_object(run / CONFIG_NAME, CheckpointError) if is_fused else {}
        for file in _model_files(source):
            _put(file, folder / file.name)
        for config_name in ("config.json", "tokenizer_config.json"):
            _drop_places(folder / config_name)
    values = read_recipe(run)
    log = read_log(run).freeze(run, values)
    if log.series:
        write_plot(log, folder / CURVES)
    recipe = _shown_recipe(values)
    if recipe is not None:
        (folder / RECIPE_NAME).write_text(recipe, encoding="utf-8")
    card = _describe(repo, config, values, run, has_adapter=has_adapter)
    scores = {name_score(score): score_series(score, log).last for score in score_names(log)}
    card = attrs.evolve(
        card,
        n_steps=log.step,
        scores={score: value for score, value in scores.items() if value is not None},
        recipe=recipe,
        has_curves=(folder / CURVES).is_file(),
    )
    (folder / CARD_NAME).write_text(write_card(card), encoding="utf-8")


def _put(file: Path, target: Path) -> None:
    """Give a file another name, or copy it where that cannot be."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copy(file, target)


def _model_files(source: Path) -> Iterator[Path]:
    """Yield the files of a model's folder that are the model's: not the run's, no hidden ones, no code."""
    for file in sorted(source.iterdir()):
        is_own = file.name in (*NOT_A_MODELS, CARD_NAME) or file.name.startswith(".")
        if file.is_file() and not is_own and (file.suffix in (".json", ".jinja", ".txt", ".model", WEIGHTS_SUFFIX)):
            yield file


def _find_run(folder: Path) -> Path:
    """Find the folder with a run's metrics: those of the best state and of the fused model lie in it."""
    names = (BEST_NAME, FUSED_NAME)
    is_inner = folder.name in names and not (folder / METRICS_NAME).is_file()
    return folder.parent if is_inner else folder


def _drop_places(file: Path) -> None:
    """Leave out where a model was loaded from, which transformers writes into its files."""
    if not file.is_file():
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in found.items() if key not in ("_name_or_path", "name_or_path")}
    if kept != found:
        # Not through the link to the user's own file.
        file.unlink()
        file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name the base in an adapter's configuration without saying where it lies here."""
    found = dict(config)
    if isinstance(found.get("base_model"), str):
        found["base_model"] = _named(found["base_model"])[0]
    if isinstance(found.get(KEY), dict) and isinstance(found[KEY].get("path"), str):
        found[KEY] = {**found[KEY], "path": _named(found[KEY]["path"])[0]}
    return found


def _named(place: str) -> tuple[str, bool]:
    return name_place(place, exists=expand(place).exists() or is_pattern(place))


def _shown_recipe(values: Mapping[str, Any]) -> str | None:
    """Write a recipe without places of the machine; None where there is none."""
    if not values:
        return None
    places = {key: values[key] for key in PATH_KEYS if isinstance(values.get(key), str)}
    for place, source in enumerate(values.get(SOURCES) or ()):
        places |= {source_key(place, name): source[name] for name in SOURCE_PATHS if isinstance(source.get(name), str)}
    exists = [key for key, value in places.items() if expand(value).exists() or is_pattern(value)]
    sections: dict[str, dict[str, Any]] = {}
    for key, value in without_places(values, exists).items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return tomli_w.dumps(sections)


def _describe(
    repo: str, config: Mapping[str, Any], values: Mapping[str, Any], run: Path, *, has_adapter: bool
) -> Described:
    """Gather what a card says of how a model was made."""
    recorded = config.get(KEY) or {}
    base, has_hub_base = _named(
        recorded.get("path") or config.get("base_model") or values.get("model.path") or "a model"
    )
    data, has_hub_data = _named(values["data.path"]) if isinstance(values.get("data.path"), str) else (None, False)
    if sources := values.get(SOURCES):
        data = ", ".join(_named(source["path"])[0] for source in sources)
    n_rows = None
    with suppress(CheckpointError):
        n_rows = find_state(run / STATE_NAME).metadata.n_rows
    names = find_transformers_names(recorded)
    return Described(
        repo=repo,
        base=base,
        has_hub_base=has_hub_base,
        revision=recorded.get("revision") or config.get("base_revision"),
        is_adapter=has_adapter,
        method=_method(config, values) if config else "full fine-tuning" if values else None,
        data=data,
        has_hub_data=has_hub_data,
        n_rows=n_rows,
        licence=_find_licence(base) if has_hub_base else None,
        versions={name: version for name, version in find_versions().items() if name != "system"},
        has_peft_form=not config.get("added_tokens"),
        opener=AUTO if names is None else names.opener,
        like=None if names is None else names.like,
        vllm_rank=find_vllm_rank(config),
    )


def _method(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Say how an adapter was trained."""
    settings = config.get("lora_parameters") or {}
    is_pissa = values.get("lora.init") == "pissa"
    name = "PiSSA" if is_pissa else "DoRA" if config.get("fine_tune_type") == "dora" else "LoRA"
    name = f"rs{name}" if values.get("lora.rslora") and name == "LoRA" else name
    layers = config.get("adapted_layers") or settings.get("keys") or ()
    schemes: Mapping[str, Any] = config.get("base_quantization") or {}
    packed = next((scheme["bits"] for scheme in schemes.values()), None)
    rank = values.get("lora.rank") if is_pissa else settings.get("rank")
    parts = [f"{name} of rank {rank} on {with_noun(len(layers), 'layer')}"]
    parts += [f"the base in {packed} bits"] if packed else []
    parts += ["embeddings or head trained whole"] if config.get("trained_tables") else []
    parts += ["the vision tower trained whole"] if config.get("train_vision") else []
    objective = values.get("train.objective", "sft")
    return ", ".join(parts) + f" ({objective})"


def _find_licence(base: str) -> str | None:
    """Read the licence of a base off its card, if that was downloaded with it."""
    file = try_to_load_from_cache(base, CARD_NAME)
    if not isinstance(file, (str, os.PathLike)):
        return None
    try:
        found = ModelCard.load(Path(file), ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None
