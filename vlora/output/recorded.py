"""The versions of the hub's files that a run, or an adapter without its run, has recorded."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs

from ..recipe.schema import Recipe
from .checkpoint import CONFIG_NAME, RunMetadata
from .paths import METRICS_NAME, RECIPE_NAME
from .resume import pin_revisions

_SECTIONS = ("model", "data")
_PINNED = re.compile(r"model|data|data\.sources\[\d+\]")

COMMIT = "_commit"
"""Ends the keys in the first line of the metrics, behind the recipe's section."""


def pin_recorded(recipe: Recipe, weights: Path) -> tuple[Recipe, dict[str, str]]:
    """Let a recipe load the versions of the hub's files that what is at a place was trained with.

    A version that the recipe names and the run did not have stays as the recipe has it.

    Args:
        recipe: The recipe.
        weights: An adapter's file, a model's folder or a run's folder. A run's best state lies in a folder of the run.

    Returns:
        The recipe, and the commits that it has now by section ("model", "data"); those of an adapter whose run is not
        there are its own.
    """
    folder = weights if weights.is_dir() else weights.parent
    found = next((run for run in (folder, folder.parent) if (run / RECIPE_NAME).is_file()), None)
    pinned = _pin_to_base(recipe, folder) if found is None else _pin_to_run(recipe, found)
    sections: dict[str, tuple[Any, Any]] = {name: (getattr(recipe, name), getattr(pinned, name)) for name in _SECTIONS}
    sources = enumerate(zip(recipe.data.sources, pinned.data.sources, strict=True))
    sections |= {f"data.sources[{place}]": both for place, both in sources}
    return pinned, {name: now.revision for name, (before, now) in sections.items() if now.revision != before.revision}


def _pin_to_run(recipe: Recipe, folder: Path) -> Recipe:
    """Take the versions that stand in the metrics of a run with the same places and the same named versions."""
    try:
        with (folder / METRICS_NAME).open(encoding="utf-8") as file:
            first = json.loads(file.readline())
        text = (folder / RECIPE_NAME).read_text(encoding="utf-8")
        names = [name for key in first if (name := key.removesuffix(COMMIT)) != key and _PINNED.fullmatch(name)]
        commits = {name: first[f"{name}{COMMIT}"] for name in names if isinstance(first[f"{name}{COMMIT}"], str)}
        return pin_revisions(RunMetadata(recipe=text, commits=json.dumps(commits)), recipe)
    except (OSError, ValueError, TypeError, AttributeError, tomllib.TOMLDecodeError):
        # A damaged file says nothing; what is loaded is what the recipe says.
        return recipe


def _pin_to_base(recipe: Recipe, folder: Path) -> Recipe:
    """Take the version of the base that an adapter's configuration names, where the recipe names none of that model."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        base, commit = config["base_model"], config["base_revision"]
    except (OSError, ValueError, TypeError, KeyError):
        return recipe
    is_same = base == recipe.model.path and recipe.model.revision is None and isinstance(commit, str)
    return attrs.evolve(recipe, model=attrs.evolve(recipe.model, revision=commit)) if is_same else recipe
