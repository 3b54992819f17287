"""What a run that goes on shares with the one that it goes on from: all that its steps depend on."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ..errors import CheckpointError
from ..recipe.parse import all_keys, dump_recipe, flatten_recipe
from ..recipe.schema import Recipe
from ..system.files import expand
from .checkpoint import RunMetadata

RESUME_MUTABLE_KEYS = frozenset(
    {
        # What is refused before anything is trained.
        "model.strict_base",
        # How long, how often to report, and where.
        "train.iters",
        "train.epochs",
        "train.steps_per_report",
        "train.steps_per_eval",
        "train.early_stopping_patience",
        "train.early_stopping_min_delta",
        "train.steps_per_save",
        "train.val_batches",
        "eval.answer_rows",
        "eval.answer_every",
        "eval.max_new_tokens",
        "eval.temperature",
        "eval.metrics",
        "eval.batch_size",
        "data.valid_path",
        "data.valid_split",
        "output.path",
        "output.report",
        "output.trackers",
        "output.project",
        "output.keep_best",
        "output.keep_last",
        # How fast, and in how much memory.
        "data.workers",
        "data.prefetch",
        "train.grad_checkpoint",
        "train.checkpoint_every",
        "train.checkpoint_part",
        "train.shard",
        "memory.limit_gb",
        "memory.cache_gb",
        "memory.wired_gb",
        "memory.max_mb_per_buffer",
        "features.cache",
        "features.memory_gb",
        "features.disk_gb",
        "features.path",
        # No row of the steps that were done was any other: a run that raises has met no bad one.
        "data.on_bad_row",
        "data.allow_changed_rows",
        "data.allow_urls",
    }
)
"""Keys that may change when a run goes on: what it learns from a row, and when, does not depend on them."""

OPEN = {"data.on_long_row": "raise"}
"""Values of keys that may change: no row of the steps that were done has met them, or there would be no such steps."""

IDLE = {"data.assistant_id": ("data.chat_template", "plain")}
"""Keys that nothing depends on but where another key has a certain value."""

SOURCES = "data.sources"

_SOURCE = re.compile(r"data\.sources\[(\d+)\]")
"""A source, as the versions of the hub's files name it."""

PLACES = ("model.path", "model.adapter_path", "data.path", "data.image_root")
"""Keys that may name the same file or folder in other words."""


def run_metadata(recipe: Recipe, n_rows: int | None, template: str = "") -> RunMetadata:
    """Return the metadata of a run that `check_resumable` reads.

    Args:
        recipe: Its recipe.
        n_rows: Rows that it trains on; None of a stream.
        template: The chat template that writes them; nothing is said of it if it is empty.
    """
    return RunMetadata(recipe=dump_recipe(recipe), n_rows=n_rows, template=_fingerprint(template) if template else None)


def check_resumable(then: RunMetadata, recipe: Recipe, n_rows: int | None, where: Path, template: str = "") -> None:
    """Refuse to go on with another recipe, on other rows, or with another template than a run has begun with.

    Args:
        then: What `run_metadata` said of it. What is missing, as in a state of your own loop, is not checked.
        recipe: The recipe to go on with.
        n_rows: Rows that it trains on; None of a stream.
        where: The training state, for the error.
        template: As for `run_metadata`.

    Raises:
        CheckpointError: Every key whose value the steps depend on, with the values then and now.
    """
    changed = [] if then.recipe is None else list(_changes(then.recipe, recipe))
    if then.n_rows not in (None, n_rows) and not changed:
        named = "data.sources" if recipe.data.path is None else f"{recipe.data.path!r} (data.path)"
        changed.append(f"{named}: {then.n_rows} rows to train on then, {n_rows} now")
    if template and then.template not in (None, _fingerprint(template)) and not changed:
        changed.append("the chat template (data.chat_template, or the model's own) was another one then")
    if changed:
        remedy = (
            "set it back; or leave --resume out and begin anew, from what was learned with model.adapter_path (after "
            "full fine-tuning with model.path)"
        )
        found = f"{where}: the run that was saved there had another recipe, or other rows"
        msg = "\n  ".join([found, *changed, remedy])
        raise CheckpointError(msg)


def pin_revisions(then: RunMetadata, recipe: Recipe) -> Recipe:
    """Let a recipe load the very versions of the hub's files that a run has begun with.

    A branch may have moved on since. What the recipe has changed is left as it is, for `check_resumable` to refuse.

    Args:
        then: What `run_metadata` said of the run.
        recipe: The recipe to go on with.
    """
    if then.commits is None or then.recipe is None:
        return recipe
    before = tomllib.loads(then.recipe)
    sources, old_sources = list(recipe.data.sources), before.get("data", {}).get("sources", [])
    for name, commit in json.loads(then.commits).items():
        if (listed := _SOURCE.fullmatch(name)) is not None:
            place = int(listed[1])
            if place < min(len(sources), len(old_sources)) and _is_same_version(sources[place], old_sources[place]):
                sources[place] = attrs.evolve(sources[place], revision=commit)
        elif _is_same_version(section := getattr(recipe, name), before.get(name, {})):
            recipe = attrs.evolve(recipe, **{name: attrs.evolve(section, revision=commit)})
    if tuple(sources) != recipe.data.sources:
        recipe = attrs.evolve(recipe, data=attrs.evolve(recipe.data, sources=tuple(sources)))
    return recipe


def _is_same_version(section: Any, old: Mapping[str, Any]) -> bool:
    return (section.path, section.revision) == (old.get("path"), old.get("revision"))


def _changes(text: str, recipe: Recipe) -> Iterator[str]:
    # With defaults of keys that there were not yet then.
    then, now = flatten_recipe(text, with_defaults=True), flatten_recipe(dump_recipe(recipe))
    for key in all_keys():
        before, after = then.get(key), now.get(key)
        if key in OPEN and before == OPEN[key]:
            continue
        if key in IDLE and IDLE[key][1] not in (then.get(IDLE[key][0]), now.get(IDLE[key][0])):
            continue
        if key in RESUME_MUTABLE_KEYS or before == after or (key in PLACES and _is_same_place(before, after)):
            continue
        if key == SOURCES and _settle(before) == _settle(after):
            continue
        yield f"{key}: {_show(before)} then, {_show(after)} now"


def _settle(sources: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Give sources with their places in the same words."""
    places = {key.partition(".")[2] for key in PLACES}
    return [
        {key: _resolve(value) if key in places else value for key, value in source.items()} for source in sources or ()
    ]


def _fingerprint(template: str) -> str:
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _is_same_place(before: str | None, after: str | None) -> bool:
    return None not in (before, after) and _resolve(str(before)) == _resolve(str(after))


def _resolve(place: str) -> Path:
    return expand(place).resolve()


def _show(value: Any) -> str:
    return "not given" if value is None else repr(value)
