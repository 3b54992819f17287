"""Real handwritten digits as question-and-answer rows: the data of the quickstart.

scikit-learn ships 1,797 of them, 8 x 8 pixels, 43 writers (UCI's "Optical recognition of handwritten digits"), so
that a whole run needs no network.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import RecipeError, SplitError

BUILTIN_DIGITS = "builtin:digits"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIGURES = tuple(str(digit) for digit in range(10))
QUESTIONS = {
    "digit": ("Which digit is this?", FIGURES),
    "name": ("Write this number as a word.", NAMES),
    "preference": ("Which digit is this?", NAMES),
}
PIXELS = 32
HELD_OUT_EVERY = 6
"""Every sixth digit is held out: 300 of 1,797."""

DIGITS_FILE = "datasets/data/digits.csv.gz"
"""Their file within scikit-learn's folder."""


def check_question(split: str, config: str | None, key: str = "data.split") -> None:
    """Check the names of split and question without reading anything.

    Args:
        split: As for `load_digit_rows`.
        config: Likewise.
        key: The recipe's key that names the split.

    Raises:
        RecipeError: No such split or question.
    """
    if split not in ("train", "test"):
        msg = f"found {split!r}, {BUILTIN_DIGITS} has 'train' and 'test'"
        raise SplitError(msg, ("train", "test"), key=key)
    if (config or "digit") not in QUESTIONS:
        msg = f"found {config!r}, {BUILTIN_DIGITS} has {', '.join(map(repr, QUESTIONS))}"
        raise RecipeError(msg, key="data.config")


def load_digit_rows(split: str, config: str | None, key: str = "data.split") -> list[dict[str, Any]]:
    """Make rows of `image`, `question` and `answer`; of preferences `image`, `prompt`, `chosen` and `rejected`.

    Args:
        split: "train" or "test".
        config: "digit" asks for the figure, "name" for the word, "preference" prefers the word to the figure; None
            means "digit".
        key: The recipe's key that names the split.

    Returns:
        1,497 or 300 rows; the images are 32 x 32 pixels.

    Raises:
        RecipeError: No such split or question, or scikit-learn is missing.
    """
    check_question(split, config, key)
    table = read_table()
    question, answers = QUESTIONS[config or "digit"]
    held_out = split == "test"

    def describe(digit: int) -> dict[str, str]:
        if config == "preference":
            return {"prompt": question, "chosen": answers[digit], "rejected": FIGURES[digit]}
        return {"question": question, "answer": answers[digit]}

    return [
        {"image": _draw(line[:-1].reshape(8, 8)), **describe(int(line[-1]))}
        for number, line in enumerate(table)
        if (number % HELD_OUT_EVERY == 0) == held_out
    ]


def read_table() -> npt.NDArray[np.float64]:
    """Read the digits.

    Returns:
        f64[1797, 65]: 64 pixels from 0 to 16, line by line, and which digit it is.

    Raises:
        RecipeError: scikit-learn is missing.
    """
    spec = importlib.util.find_spec("sklearn")
    for root in (spec.submodule_search_locations if spec is not None else None) or ():
        # Importing scikit-learn with scipy takes longer than everything else here.
        file = Path(root) / DIGITS_FILE
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        msg = f'{BUILTIN_DIGITS} needs scikit-learn; run python -m pip install -e ".[quickstart]"'
        raise RecipeError(msg, key="data.path") from None
    found = load_digits()
    return np.column_stack([found.data, found.target])


def _draw(pixels: Any) -> Image.Image:
    """Enlarge 8 x 8 values from 0 to 16 to a grey picture."""
    grey = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
    return grey.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).convert("RGB")
