"""Finds the facts about rows and a model that a recipe for them needs: columns, splits, lengths, memory.

Rows that the layouts read need no mapping; other columns are recognized by their names, and images by their values.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from ..data.format.pictures import IMAGE_COLUMNS
from ..data.opening import read_rows
from ..data.readers.sources import FILE_SUFFIXES, IMAGE_SUFFIXES, has_one_split
from ..data.rows import RowDataset
from ..errors import OutOfMemoryError, RecipeError, SampleError, SplitError, VloraError
from ..estimate.plan import make_plan
from ..recipe.parse import parse_recipe
from ..recipe.schema import DataSection, Recipe
from ..recipe.suggest import FitFacts, RowFacts, ask_about_classes, suggest_recipe
from ..system.files import expand
from ..types import Sample

FIRST = 64
"""Number of rows that are read."""

VALID_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of splits and files with rows to validate on, the likeliest first."""

MEANINGS = {
    "image": ("photo", "picture", "pic", "img", "image_path", "img_path", "file", "filename", "file_name", "path"),
    "question": ("ask", "asked", "q", "query", "problem", "task", "instruction", "prompt", "input", "user", "request"),
    "answer": (
        *("reply", "a", "solution", "target", "ground_truth", "gt", "expected", "response", "completion", "output"),
        *("assistant", "answers", "reference", "result"),
    ),
    "caption": ("description", "desc", "alt", "alt_text", "title", "captions", "transcription", "transcript"),
    "label": ("class", "category", "species", "labels", "tag", "type"),
}
"""Column of vlora to names that other data sets have for it."""

LONGEST_CLASS = 40
ROWS_OF_A_CLASS = 2
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
    split, rows = _find_training_rows(path)
    columns = _find_columns(rows, path, split)
    data = DataSection(path=path, split=split or "train", columns=columns)
    train, _ = read_rows(data)
    samples = list(_samples(train))
    answers = [_last_answer(sample) for sample in samples]
    found = train.columns()
    used = found.used
    column = _answer_alone(used)
    is_class = column is not None and (column == "label" or _are_classes(answers))
    classes = sorted(set(answers)) if is_class else ()
    question = None
    if column is not None and set(used) == {column, "image"} and not columns:
        question = ask_about_classes(classes) if is_class else CAPTION_QUESTION
    return RowFacts(
        path=path,
        split=split,
        n_rows=len(train),
        columns=columns,
        unused=found.unused,
        question=question,
        answer=column,
        classes=classes,
        n_words=int(median(len(answer.split()) for answer in answers)),
        n_characters=max(map(len, answers)),
        n_read=len(samples),
        **_find_validation(path, split),
    )


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
            for batch in BATCHES:
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
        plan = make_plan(recipe, memory_gb, n_rows=FIRST)
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
    )


def _find_training_rows(path: str) -> tuple[str | None, RowDataset]:
    """Find the split to train on: "train" where there is one, else the first that is none to validate on."""
    if has_one_split(expand(path)):
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


def _find_columns(rows: RowDataset, path: str, split: str | None) -> dict[str, str]:
    """Return the mapping of columns with which all first rows can be read.

    Raises:
        RecipeError: No known names make conversations of the rows.
    """
    problem = _first_problem(rows)
    if problem is None:
        return {}
    raw = [rows.table[int(index)] for index in list(rows.indices)[:FIRST]]
    whole = _guess(raw, rows.kinds)
    images = {name: meaning for name, meaning in whole.items() if meaning == "image"}
    # Where images alone have to be named, a layout reads the other columns, and may read more of them.
    for columns in (images, whole):
        mapped, _ = read_rows(DataSection(path=path, split=split or "train", columns=columns))
        problem = _first_problem(mapped)
        is_last = columns == whole
        if problem is None and (is_last or not any(map(_meaning, mapped.columns().unused))):
            return columns
    lists = [str(name) for name in raw[0] if _meaning(str(name)) and _holds_lists(raw, str(name))]
    msg = (
        f"{problem}; its columns are {', '.join(map(str, raw[0]))}, "
        f"{f'of which {lists[0]!r} holds lists, ' if lists else ''}and their names do not say which is which: rename "
        'them, or write a recipe with data.columns = {yours = "question", ...} (init --recipe forkme FILE)'
    )
    raise RecipeError(msg)


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


def _guess(raw: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> dict[str, str]:
    """Map columns by what their names mean elsewhere, the likeliest first; images by their kind or values too."""
    names = sorted(map(str, raw[0]), key=_likelihood)
    found = {name: _meaning(name) for name in names}
    found = {
        name: None if meaning in MEANINGS.keys() - {"image"} and _holds_lists(raw, name) else meaning
        for name, meaning in found.items()
    }
    for name in names:
        if kinds.get(name) == "image" or all(_names_image(row.get(name)) for row in raw):
            found[name] = "image"
        elif found[name] == "image" and name not in IMAGE_COLUMNS and all(_names_other(row.get(name)) for row in raw):
            found[name] = None
    meanings = [meaning for meaning in found.values() if meaning is not None]
    if "question" not in meanings and "answer" in meanings:
        # An answer to the image alone.
        found = {name: "caption" if meaning == "answer" else meaning for name, meaning in found.items()}
    taken: set[str] = set()
    columns: dict[str, str] = {}
    for name, meaning in found.items():
        if meaning is None or (meaning in taken and meaning != "image"):
            continue
        taken.add(meaning)
        if meaning != name:
            columns[name] = meaning
    # As they stand in the rows: images are in this order.
    return {name: columns[name] for name in map(str, raw[0]) if name in columns}


def _likelihood(name: str) -> int:
    """Give the place of a column's name among those of its meaning."""
    plain = _plain(name)
    return next((names.index(plain) for names in MEANINGS.values() if plain in names), -1)


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def _holds_lists(raw: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether values of a column are lists or objects, which are no question or answer."""
    return any(isinstance(row.get(name), (list, tuple, Mapping)) for row in raw)


def _meaning(name: str) -> str | None:
    plain = _plain(name)
    if plain in ("question", "answer", *IMAGE_COLUMNS, "caption", "label", "text"):
        return plain
    return next((meaning for meaning, names in MEANINGS.items() if plain in names), None)


def _names_image(value: object) -> bool:
    return isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _names_other(value: object) -> bool:
    """Whether a value names a file that is no picture."""
    return isinstance(value, str) and not _names_image(value) and re.search(r"\.\w{1,5}$", value) is not None


def _samples(rows: RowDataset) -> Iterator[Sample]:
    for index in range(min(FIRST, len(rows))):
        with contextlib.suppress(SampleError):
            yield rows[index]


def _last_answer(sample: Sample) -> str:
    answers = [turn for turn in sample.turns if turn.role == "assistant"]
    return "".join(part for part in answers[-1].parts if isinstance(part, str)).strip() if answers else ""


def _answer_alone(used: Mapping[str, str]) -> str | None:
    """Return the column that is the answer to an image alone; None if the rows have questions."""
    return next((name for name in ("label", "caption", "text") if name in used), None)


def _are_classes(answers: Sequence[str]) -> bool:
    is_short = all(len(answer) <= LONGEST_CLASS for answer in answers)
    return is_short and len(answers) >= ROWS_OF_A_CLASS * len(set(answers))
