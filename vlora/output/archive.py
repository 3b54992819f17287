"""Files of an earlier run in the folder of a new one: those worth keeping are archived, incomplete ones are removed."""

import fnmatch
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import CheckpointError, RecipeError
from ..recipe.parse import dump_recipe
from ..recipe.schema import Recipe
from ..system.files import expand
from ..system.globs import list_files
from ..system.safetensors_header import HeaderError, name_arrays
from .atomic import MODEL_NAME, PARTIAL, remove
from .checkpoint import CONFIG_NAME
from .paths import (
    ADAPTER_NAME,
    BEST_NAME,
    DERIVED_NAMES,
    EVALUATION_NAMES,
    EXAMPLE_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECIPE_NAME,
    STATE_NAME,
    TRACKER_NAMES,
    WEIGHTS_SUFFIX,
    OutputPaths,
)
from .setting_aside import JOURNAL_NAME, Journal, complete, move_all, next_number

OWN_NAMES = (METRICS_NAME, PREDICTIONS_NAME, RECIPE_NAME, EXAMPLE_NAME, *DERIVED_NAMES, *TRACKER_NAMES)
"""Of files in a run's folder besides weights, state and what describes them."""

_RUN_NAMES = {*OWN_NAMES, CONFIG_NAME, BEST_NAME, Path(STATE_NAME).parts[0]}

INDEX_NAME = f"model{WEIGHTS_SUFFIX}.index.json"


def archive_previous_run(recipe: Recipe, paths: OutputPaths, model_files: Collection[str] = ()) -> Path | None:
    """Move an earlier run's files into a folder of their own, from which that run can be resumed.

    All adapters go with the `adapter_config.json` that describes them: beside another one they would load at another
    scale. The adapter that this run starts from stays, too; there it is copied.

    Args:
        recipe: The run's.
        paths: Where it writes.
        model_files: In full fine-tuning, names of the files that a model consists of besides its weights.

    Returns:
        That folder; None if there was nothing to keep: nothing, or what a run has left that did not begin.
    """
    base, kept = expand(recipe.model.path), starts_from(recipe)
    found = sorted(set(_find(paths, base, kept, model_files)))
    models = sorted(_find_models(paths, base))
    if not models and not _is_worth_keeping(paths, found, recipe):
        return None
    copied = tuple(name for name in found if (paths.folder / name).resolve() in kept)
    journal = Journal(
        number=next_number(paths.folder),
        moved=tuple(name for name in found if name not in copied),
        copied=copied,
        models=tuple(models),
    )
    return move_all(paths.folder, journal)


def complete_setting_aside(folder: Path) -> Path | None:
    """Move what a process that ended while it set things aside has left to be moved.

    Args:
        folder: The run's, which is this process's alone.

    Returns:
        Where it all is now; None if there was nothing to complete.

    Raises:
        CheckpointError: What says what is to be moved was not written by a run.
    """
    file = folder / JOURNAL_NAME
    if not os.path.lexists(file):
        return None
    return complete(folder)


def remove_partials(paths: OutputPaths) -> None:
    """Remove the incomplete files of a killed run, and files that this run may never write again.

    Args:
        paths: Where the run writes, which is this process's alone.
    """
    own = {*OWN_NAMES, BEST_NAME, CONFIG_NAME, JOURNAL_NAME, paths.state.name, paths.weights.name}
    own |= {paths.base.name} if paths.is_adapter else set()
    for folder in {paths.folder, paths.weights.parent, paths.state.parent}:
        for path in folder.glob(f"{PARTIAL}*") if folder.is_dir() and not folder.is_symlink() else ():
            whole = path.with_name(path.name.removeprefix(PARTIAL))
            # The folder above a model's is not the run's: there only the model's own names are.
            names = own if folder != paths.weights.parent or paths.is_adapter else {paths.weights.name}
            if whole.name in names or paths.is_numbered(whole):
                remove(path)


def refuse_links(paths: OutputPaths) -> None:
    """Refuse to go on from what only a link leads to.

    Raises:
        CheckpointError: One of the run's own files or folders is a symbolic link; a run writes none.
    """
    state = paths.folder / STATE_NAME
    models = [paths.base] if paths.is_adapter else list(filter(paths.is_numbered, paths.folder.parent.iterdir()))
    own = [path for folder in (state.parent, paths.best) for path in (folder, *folder.glob("*"))]
    for path in (*own, paths.metrics, paths.predictions, paths.folder / RECIPE_NAME, *models):
        if path.is_symlink():
            msg = f"{path}: is a link to {path.readlink()}, which no run has made; put there what it leads to"
            raise CheckpointError(msg)


def refuse_among_rows(recipe: Recipe, paths: OutputPaths) -> None:
    """Refuse to begin a run that would write among the files that it reads, or move them away.

    Raises:
        RecipeError: Its folder lies in a folder of rows, which are read anew when it goes on; or a file of rows, or a
            chat template, has the name of what it writes.
    """
    data, folder = recipe.data, paths.folder.resolve()
    named = {"path": data.path, "valid_path": data.valid_path, "chat_template": data.chat_template}
    named |= {f"sources[{place}].path": source.path for place, source in enumerate(data.sources)}
    files = [(key, file) for key, given in named.items() if given is not None for file in list_files(given)]
    for key, name in files:
        place = expand(name).resolve()
        if place.is_dir() and folder.is_relative_to(place):
            what = f"lies in the folder of data.{key}, where its files would be read as rows"
            msg = f"output.path: {folder} {what}; give a folder elsewhere"
            raise RecipeError(msg)
        if place.is_file() and place.is_relative_to(folder) and _is_of_run(place.relative_to(folder).parts[0]):
            what = "is what the run itself writes, by output.path"
            msg = f"data.{key}: {name!r} {what}; give another output.path, or the file another name"
            raise RecipeError(msg)


def refuse_model_folder(paths: OutputPaths) -> None:
    """Refuse an adapter among the files of a model, which would be loaded with its weights.

    Raises:
        RecipeError: The adapter's folder is that of a model.
    """
    folder = paths.folder
    if paths.is_adapter and (folder / MODEL_NAME).is_file() and any(not _is_adapter(file) for file in _weights(folder)):
        msg = f"output.path: {folder} is the folder of a model, whose weights an adapter would mix with; give another"
        raise RecipeError(msg)


def _find(paths: OutputPaths, base: Path, starts: Collection[Path], model_files: Collection[str]) -> Iterator[str]:
    """Name what is in the folder of what a run writes, without the model or the best adapter that it starts from."""
    # The state's folder as a whole, and a link to one as the link.
    names = [Path(STATE_NAME).parts[0], *OWN_NAMES, CONFIG_NAME]
    if paths.is_adapter and paths.base.resolve() != base.resolve():
        names.append(paths.base.name)
    elif not paths.is_adapter:
        names += [*model_files, MODEL_NAME, INDEX_NAME]
    if paths.best.resolve() not in {*starts, base.resolve()}:
        names.append(BEST_NAME)
    if os.path.lexists(paths.metrics):
        # Without a run it is what somebody has asked of the untrained model.
        names += sorted(file.name for file in paths.folder.glob(EVALUATION_NAMES))
    for name in names:
        if os.path.lexists(paths.folder / name):
            yield name
    for file in _weights(paths.folder):
        if not paths.is_adapter or file == paths.weights or paths.is_numbered(file) or _is_adapter(file):
            yield file.name


def _find_models(paths: OutputPaths, base: Path) -> Iterator[str]:
    """Name the numbered models beside a model's folder, without the one that the run starts from."""
    if not paths.is_adapter and paths.folder.parent.is_dir():
        for path in paths.folder.parent.iterdir():
            if paths.is_numbered(path) and path.resolve() != base.resolve():
                yield path.name


def _is_worth_keeping(paths: OutputPaths, found: Collection[str], recipe: Recipe) -> bool:
    for name in found:
        path = paths.folder / name
        if path.is_symlink():
            return True
        if name in (*DERIVED_NAMES, *TRACKER_NAMES) and METRICS_NAME in found:
            # Its numbers stand there.
            continue
        if path.is_dir():
            # What is hidden is not whole.
            is_nothing = all(part.name.startswith(".") for part in path.iterdir())
        else:
            is_nothing = (name == METRICS_NAME and not path.stat().st_size) or (
                name == RECIPE_NAME and path.read_bytes() == dump_recipe(recipe).encode()
            )
        if not is_nothing:
            return True
    return False


def starts_from(recipe: Recipe) -> set[Path]:
    """Name the files of the adapter that a run starts from, and their folder; `--resume` reads them again."""
    if recipe.model.adapter_path is None:
        return set()
    path = expand(recipe.model.adapter_path).resolve()
    folder = path.parent if path.suffix == WEIGHTS_SUFFIX else path
    return {path, folder, folder / ADAPTER_NAME, folder / CONFIG_NAME}


def _weights(folder: Path) -> list[Path]:
    """List the files of weights in a folder; hidden ones are not yet whole."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == WEIGHTS_SUFFIX and not path.name.startswith("."))


def _is_of_run(name: str) -> bool:
    """Whether a run, or an evaluation of it, writes under this name in its folder."""
    return name in _RUN_NAMES or fnmatch.fnmatch(name, EVALUATION_NAMES)


def _is_adapter(file: Path) -> bool:
    """Whether a file of weights is an adapter, as its header has it."""
    try:
        return any("lora_" in name.lower() for name in name_arrays(file))
    except (OSError, HeaderError):
        return False
