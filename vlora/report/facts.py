"""Finds the facts about rows and a model that a recipe for them needs: columns, splits, lengths, memory.

Rows that the layouts read need no mapping; what other columns mean is guessed (`vlora.report.guessing`).
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import attrs

from ..data.format.boxes import BOX_MARK
from ..data.format.samples import Preferences
from ..data.opening import read_rows
from ..data.readers.sources import FILE_SUFFIXES, has_one_split
from ..data.rows import RowDataset
from ..errors import OutOfMemoryError, RecipeError, SampleError, SplitError, VloraError
from ..estimate.plan import make_plan
from ..models import look_at_image
from ..recipe.columns import IMAGE_COLUMNS
from ..recipe.parse import parse_recipe
from ..recipe.schema import DataSection, Recipe
from ..recipe.suggest import (
    FEWEST_ROWS_OF_A_BATCH,
    FitFacts,
    RowFacts,
    ask_about_classes,
    estimate_tokens,
    suggest_recipe,
)
from ..system.files import expand
from ..system.globs import list_files
from ..types import Sample
from .guessing import MOST, Guess, find_images, find_meaning, find_objective, find_pair, guess_columns, holds_lists
from .image_root import find_image_root

FIRST = 64
"""Number of rows that are read."""

VALID_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of splits and files with rows to validate on, the likeliest first."""

LONGEST_CLASS, WORDS_OF_A_CLASS = 40, 4
ENDS = (".", "!", "?", "。")
"""End a sentence, which is no class."""
LONGEST_BOX = "<[1000, 1000, 1000, 1000]>"
"""Stands for a box of any family, whose marks in rows are shorter."""
MOST_OF_CLASSES = 20_000
"""Rows that are read for the names of their classes."""
ROWS_OF_A_CLASS = 2
PREFERENCES: Mapping[str, Preferences | None] = {"sft": None, "dpo": "pairs", "kto": "marks"}
"""What rows have beside one answer, by the objective that learns from it."""
BATCHES = (8, 4, 2, 1)
USABLE = 0.9
LONGEST_ROW = 16_384
QUANTIZED_BITS = 4
RELIEFS: tuple[Mapping[str, Any], ...] = (
    {},
    {"train.grad_checkpoint": True},
    {"model.quantize_bits": QUANTIZED_BITS},
    {"model.quantize_bits": QUANTIZED_BITS, "train.grad_checkpoint": True},
)
"""Settings that save memory, the cheapest first."""
CAPTION_QUESTION = "Describe this image."


def look_at_rows(path: str) -> RowFacts:
    """Read the first rows of a data set.

    Args:
        path: A file, a folder or a hub id, as `data.path` takes it.

    Raises:
        RecipeError: There is no such data set, or its rows hold no conversation under any names that are known.
    """
    _refuse_stream(path)
    split, rows = _find_training_rows(path)
    objective = find_objective(_read_raw(rows))
    preferences = PREFERENCES[objective]
    guesses = _find_columns(rows.with_preferences(preferences), path, split, preferences)
    columns = _map(guesses)
    root, train = _read_with_images(DataSection(path=path, split=split or "train", columns=columns), preferences)
    bad: list[SampleError] = []
    samples = list(_samples(train, on_bad=bad.append))
    bad += _find_unreadable(train, samples)
    answers = [_last_answer(sample) for sample in samples]
    # Columns by the names under which they are read.
    found = train.columns()
    used = {columns.get(name, name): name for name in found.used}
    column = _answer_alone(used) if objective == "sft" else None
    is_asked = column is not None and set(used) == {column, "image"}
    is_class = column is not None and (column == "label" or _are_classes(answers))
    if is_class and is_asked:
        # A folder per class has the rows of one class after another.
        answers = [_last_answer(sample) for sample in _samples(train, MOST_OF_CLASSES)]
        is_class = column == "label" or _are_classes(answers)
    classes = sorted(set(answers)) if is_class else ()
    return RowFacts(
        path=path,
        split=split,
        objective=objective,
        n_rows=len(train),
        image_root=root,
        columns=columns,
        reasons={guess.column: guess.why for guess in guesses},
        unused=found.unused,
        question=_ask(classes, len(train), is_class=is_class) if is_asked else None,
        answer=column,
        classes=classes,
        n_words=int(median(len(answer.split()) for answer in answers)),
        n_answer_tokens=max(map(estimate_tokens, answers)),
        kind=_find_kind(samples),
        n_read=len(samples),
        bad=tuple(" ".join(str(error).split()) for error in bad),
        **_find_validation(path, split),
    )


def _read_with_images(data: DataSection, preferences: Preferences | None) -> tuple[str | None, RowDataset]:
    """Read rows, and find where their images lie if that is not beside them."""
    train, _ = read_rows(data, preferences=preferences)
    root = find_image_root(str(data.path), train, FIRST)
    if root is not None:
        train, _ = read_rows(attrs.evolve(data, image_root=root), preferences=preferences)
    return root, train


def _ask(classes: Sequence[str], n_rows: int, *, is_class: bool) -> str:
    """Write the question for rows that have an image and an answer only."""
    # Classes of rows that were not looked at would be missing from a list.
    return ask_about_classes(classes if n_rows <= MOST_OF_CLASSES else ()) if is_class else CAPTION_QUESTION


def look_at_fit(rows: RowFacts, model: str, output: str, memory_gb: float | None = None) -> FitFacts | str:
    """Find how many rows fit into a machine's memory at once, and with which settings.

    Args:
        rows: What the rows are like.
        model: The model, as `model.path` takes it.
        output: Where the run will write.
        memory_gb: Gigabytes (1e9 bytes) of another machine; None for this one's.

    Returns:
        What fits, or a sentence why that is not known.
    """
    base = parse_recipe(suggest_recipe(rows, model, "", output), {"data.max_seq_length": LONGEST_ROW})
    smallest: FitFacts | None = None
    try:
        for relief in RELIEFS:
            for batch in (batch for batch in BATCHES if batch >= FEWEST_ROWS_OF_A_BATCH[rows.objective]):
                found = _plan(base, {**relief, "train.batch_size": min(batch, rows.n_rows)}, memory_gb)
                if found is not None and found.fits:
                    return found
                smallest = found or smallest
    except VloraError as error:
        return f"{' '.join(str(error).split())}"
    return smallest or "no step of these rows fits; `python -m vlora plan` says what it would need"


def _plan(base: Recipe, keys: Mapping[str, Any], memory_gb: float | None) -> FitFacts | None:
    recipe = base
    for key, value in keys.items():
        section, _, name = key.partition(".")
        recipe = attrs.evolve(recipe, **{section: attrs.evolve(getattr(recipe, section), **{name: value})})
    try:
        plan = make_plan(recipe, memory_gb, n_rows=FIRST, with_longest=False)
    except OutOfMemoryError:
        return None
    if plan.longest_rows.unread:
        raise RecipeError(plan.longest_rows.unread)
    return FitFacts(
        n_tokens=plan.n_tokens,
        batch_size=recipe.train.batch_size,
        grad_checkpoint=recipe.train.grad_checkpoint,
        quantize_bits=recipe.model.quantize_bits,
        peak_gb=plan.peak / 1e9,
        memory_gb=plan.memory / 1e9,
        fits=plan.peak <= USABLE * plan.memory,
        bad=tuple(" ".join(reason.split()) for reason in plan.longest_rows.bad),
    )


def _refuse_stream(path: str) -> None:
    if Path(path).suffix.lower() == ".tar":
        msg = (
            f"init: {path!r} is streamed, and a stream needs keys that its first rows do not say; write a recipe with "
            "init --recipe forkme FILE, and set data.streaming and train.iters"
        )
        raise RecipeError(msg)


def _find_training_rows(path: str) -> tuple[str | None, RowDataset]:
    """Find the split to train on: "train" where there is one, else the first that is none to validate on."""
    if all(has_one_split(expand(file)) for file in list_files(path)):
        return None, read_rows(DataSection(path=path))[0]
    try:
        return "train", read_rows(DataSection(path=path))[0]
    except SplitError as error:
        splits = error.splits
    split = next((name for name in splits if name not in VALID_NAMES), splits[0])
    return split, read_rows(DataSection(path=path, split=split))[0]


def _find_validation(path: str, split: str | None) -> dict[str, str]:
    """Find rows to validate on: another split, or a file beside the one to train on."""
    local = expand(path)
    if split is not None:
        for name in VALID_NAMES:
            if name != split:
                with contextlib.suppress(RecipeError):
                    read_rows(DataSection(path=path, split=name))
                    return {"valid_split": name}
        return {}
    if local.is_file() and "train" in local.stem.lower():
        for name in VALID_NAMES:
            beside = local.with_name(re.sub("train", name, local.name, count=1, flags=re.IGNORECASE))
            if beside.is_file() and beside.suffix.lower() in FILE_SUFFIXES:
                return {"valid_path": str(Path(path).with_name(beside.name))}
    return {}


def _read_raw(rows: RowDataset) -> list[Mapping[str, Any]]:
    """Return the first rows as the table has them."""
    return [rows.table[int(index)] for index in list(rows.indices)[:FIRST]]


def _find_columns(rows: RowDataset, path: str, split: str | None, preferences: Preferences | None) -> list[Guess]:
    """Return the guesses with which all first rows can be read with their images.

    Raises:
        RecipeError: Neither names nor values make conversations of them.
    """
    raw = _read_raw(rows)
    problem = _first_problem(rows)
    if problem is None:
        # The layouts read names; pictures under other names would be left out.
        own = rows.columns().used
        images = find_images(raw, rows.kinds)
        return [] if any(guess.column in own for guess in images) or set(own) & set(IMAGE_COLUMNS) else images
    images, whole = find_images(raw, rows.kinds), guess_columns(raw, rows.kinds, is_compared=preferences == "pairs")
    compared = [*images, *find_pair(raw)] if preferences == "pairs" else images
    # Where images or answers alone have to be named, a layout reads the other columns, and may read more of them.
    for guesses in (images, compared, whole):
        section = DataSection(path=path, split=split or "train", columns=_map(guesses))
        mapped, _ = read_rows(section, preferences=preferences)
        problem = _first_problem(mapped)
        if problem is None and (guesses is whole or not any(map(find_meaning, mapped.columns().unused))):
            return guesses
    lists = [str(name) for name in raw[0] if find_meaning(str(name)) and holds_lists(raw, str(name))]
    msg = (
        f"{problem}; its columns are {', '.join(map(str, raw[0]))}, "
        f"{f'of which {lists[0]!r} holds lists, ' if lists else ''}and neither their names nor their values say which "
        'is which: rename them, or write a recipe with data.columns = {yours = "question", ...} (init --recipe forkme '
        "FILE)"
    )
    raise RecipeError(msg)


def _map(guesses: Sequence[Guess]) -> dict[str, str]:
    """Return the mapping of `data.columns` for guesses."""
    return {guess.column: guess.meaning for guess in guesses if guess.column != guess.meaning}


def _first_problem(rows: RowDataset) -> SampleError | None:
    """Return the error of the first rows if none of them can be read, or if their images are not read."""
    problem: SampleError | None = None
    for index in range(min(FIRST, len(rows))):
        try:
            rows[index]
        except SampleError as error:
            problem = problem or error
        else:
            return None
    return problem


def _samples(
    rows: RowDataset, most: int = FIRST, on_bad: Callable[[SampleError], None] = lambda _: None
) -> Iterator[Sample]:
    for index in range(min(most, len(rows))):
        try:
            yield rows[index]
        except SampleError as error:
            on_bad(error)


def _find_unreadable(rows: RowDataset, samples: Sequence[Sample]) -> Iterator[SampleError]:
    """Yield why rows cannot be learned from whose images are not there, or are none, by the headers of their files."""
    places = {rows.name_row(index): index for index in range(min(FIRST, len(rows)))}
    for sample in samples:
        try:
            with rows.locating(places[sample.source]):
                for image in sample.images:
                    look_at_image(image, sample.source)
        except SampleError as error:
            yield error


def _last_answer(sample: Sample) -> str:
    answers = [turn for turn in sample.turns if turn.role == "assistant"]
    text = "".join(part for part in answers[-1].parts if isinstance(part, str)).strip() if answers else ""
    return text if sample.objects is None else text.replace(BOX_MARK, LONGEST_BOX)


def _find_kind(samples: Sequence[Sample]) -> Literal["text", "boxes", "json"]:
    """Say what most answers are."""
    answers = [_last_answer(sample) for sample in samples]
    pairs = zip(samples, answers, strict=True)
    if sum(sample.objects is not None and LONGEST_BOX in text for sample, text in pairs) > MOST * len(answers):
        return "boxes"
    return "json" if sum(map(_is_object, answers)) > MOST * len(answers) else "text"


def _is_object(text: str) -> bool:
    """Whether a text is an object of JSON."""
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _answer_alone(used: Mapping[str, str]) -> str | None:
    """Return the column that is the answer to an image alone; None if the rows have questions."""
    return next((name for name in ("label", "caption", "text") if name in used), None)


def _are_classes(answers: Sequence[str]) -> bool:
    """Whether answers are names that come again: short ones, and no sentences."""
    is_short = all(len(answer) <= LONGEST_CLASS and not answer.endswith(ENDS) for answer in answers)
    is_name = all(len(answer.split()) <= WORDS_OF_A_CLASS for answer in answers)
    return is_short and is_name and len(answers) >= ROWS_OF_A_CLASS * len(set(answers))
