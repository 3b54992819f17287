"""What a model answered to a row, as metrics take it and as a line of predictions.jsonl has it."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from ..errors import EvaluationError
from ..system.files import open_text


@attrs.frozen(kw_only=True)
class Prediction:
    """An answer, and what it answers.

    Attributes:
        row: The row's name: its file and its place there.
        images: Their names or paths as the row has them, else "image 1 of" the row.
        prompt: What the model was asked, as its template renders it.
        expected: The answer that the row has.
        answer: The model's.
        step: How many steps were taken when it answered.
        columns: Plain values of the row that metrics may need ("answers", "choices"); see `plain_columns`.
        image_sizes: (width, height) of each image as it is stored, in pixels.
        convention: How the model's family writes boxes, one of `vlora.evaluation.boxes.CONVENTIONS`; None where that
            is not known.
    """

    row: str
    images: tuple[str, ...] = ()
    prompt: str = ""
    expected: str
    answer: str
    step: int = 0
    columns: Mapping[str, Any] = attrs.field(factory=dict)
    image_sizes: tuple[tuple[int, int], ...] = ()
    convention: str | None = None


def plain_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a row what JSON has: texts, numbers, truth values, lists and objects of these; no bytes, no images."""
    return {str(key): value for key, value in row.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int))


def dump_prediction(prediction: Prediction, scores: Mapping[str, float] = MappingProxyType({})) -> str:
    """Write a line of predictions.jsonl, its line break included.

    Args:
        prediction: What was answered.
        scores: What `score` says of it.
    """
    fields = attrs.asdict(prediction, recurse=False)
    before = {key: fields.pop(key) for key in ("row", "images", "prompt", "expected", "answer")}
    line = {**before, "scores": dict(scores), **fields, "columns": dict(prediction.columns)}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a pair of surrogates, which a model may write and UTF-8 does not have.
        text = json.dumps(line, allow_nan=False)
    return text + "\n"


def parse_prediction(text: str, where: str) -> tuple[Prediction, dict[str, float]]:
    """Read what `dump_prediction` wrote.

    Args:
        text: The line.
        where: The file and the line's number, for the error.

    Returns:
        (what was answered, its scores).

    Raises:
        EvaluationError: It is no such line.
    """
    try:
        return _read_fields(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        msg = (
            f"{where}: found {text.rstrip()[:80]!r}, expected an answer as vlora writes it, with 'row', 'expected' and "
            f"'answer' ({' '.join(str(error).split())}); write the file anew with `python -m vlora eval`"
        )
        raise EvaluationError(msg) from None


def is_prediction(text: str) -> bool:
    """Whether a text begins with a line that `dump_prediction` has written; pure."""
    try:
        found = json.loads(text.partition("\n")[0])
        _read_fields(dict(found))
    except (ValueError, TypeError, AttributeError):
        return False
    return "scores" in found


def _read_fields(found: Any) -> tuple[Prediction, dict[str, float]]:
    scores = {str(name): float(value) for name, value in found.pop("scores", {}).items()}
    known = {field.name for field in attrs.fields(Prediction)}
    values = {key: value for key, value in found.items() if key in known}
    values["images"] = tuple(map(str, values.get("images", ())))
    values["image_sizes"] = tuple((int(width), int(height)) for width, height in values.get("image_sizes", ()))
    missing = [name for name in ("row", "expected", "answer") if name not in values]
    if missing:
        msg = f"it has no {' and no '.join(map(repr, missing))}"
        raise TypeError(msg)
    prediction = Prediction(**values)
    if not all(isinstance(getattr(prediction, name), str) for name in ("row", "expected", "answer")):
        msg = "'row', 'expected' or 'answer' is no text"
        raise TypeError(msg)
    return prediction, scores


def read_predictions(path: Path) -> Iterator[tuple[Prediction, dict[str, float]]]:
    """Read a predictions.jsonl line by line.

    Raises:
        EvaluationError: A line is no answer, or the file cannot be read.
    """
    try:
        with open_text(path, errors="replace", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_prediction(line, f"{path}:{number}")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); give a predictions.jsonl"
        raise EvaluationError(msg) from None
