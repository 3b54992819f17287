"""The models and rows of the end-to-end benchmark. Imports neither mlx nor torch."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels."""

QUESTION = "What is in this image?"
WORDS = (
    *("the", "a", "of", "with", "on", "left", "right", "above", "photo", "shows", "people", "street", "market"),
    *("coffee", "receipt", "total", "price", "table", "chart", "window", "bridge", "river", "garden", "blue", "green"),
)
FIRST_WORD = "on"
"""Of answers that are even: a word behind a space may be another number of tokens than the same word at the start."""

JPEG_QUALITY = 90
BLOCK = 32
"""Pixels between two random colours of an image. What lies between is interpolated: smooth, like a photo."""

ROWS_NAME, SPEC_NAME = "rows.jsonl", "rows.json"
SET_NAMES = ("mixed", "one", "all", "long", "pairs", "even")
"""A name's place is part of the seed of its rows: new ones come last."""


@attrs.frozen(kw_only=True)
class RowSet:
    """A set of rows: an image, a question and an answer each.

    Attributes:
        name: One of `SET_NAMES`; with the seed it fixes the rows.
        rows: How many.
        batch: Rows of a step.
        sizes: Of the images; each row's is drawn from them.
        sides: Instead of sizes: (least, most) of the sides, drawn so that no two images have the same size.
        words: (least, most) of an answer.
        max_seq_length: Tokens of a row at most, for all programs; nothing is cut.
        is_paired: Each has a second answer, and programs learn which one is preferred (DPO).
        is_even: All answers have the same words, each in another order, so that rows have the same number of tokens.
    """

    name: str
    rows: int
    batch: int
    sizes: tuple[Size, ...] = ()
    sides: tuple[int, int] | None = None
    words: tuple[int, int]
    max_seq_length: int = 2048
    is_paired: bool = False
    is_even: bool = False

    @property
    def objective(self) -> str:
        """What programs minimise, as vlora names it."""
        return "dpo" if self.is_paired else "sft"


@attrs.frozen(kw_only=True)
class Kind:
    """What one kind of machine is given to do.

    Attributes:
        device: What vlora's metrics call the device.
        shape: A key of `SHAPES`.
        dtype: Of the weights.
        least_pixels: The processor scales smaller images up to so many.
        sets: The rows.
        peer_steps: After which mlx-vlm's and TRL's runs are cut.
    """

    device: Literal["cpu", "cuda"]
    shape: str
    dtype: Literal["float32", "bfloat16"]
    least_pixels: int
    sets: Mapping[str, RowSet]
    peer_steps: int


def _name(*sets: RowSet) -> dict[str, RowSet]:
    return {rows.name: rows for rows in sets}


_PHOTOS = ((512, 512), (640, 384), (480, 512), (384, 640), (576, 448))
_SMALL_PHOTOS = ((128, 128), (160, 96), (96, 128), (96, 160), (128, 96))

KINDS: Mapping[str, Kind] = {
    "nvidia": Kind(
        device="cuda",
        shape="2b",
        dtype="bfloat16",
        least_pixels=256 * 256,
        sets=_name(
            RowSet(name="mixed", rows=960, batch=16, sizes=_PHOTOS, words=(12, 40)),
            RowSet(name="one", rows=960, batch=16, sizes=_PHOTOS[:1], words=(12, 40)),
            RowSet(name="all", rows=960, batch=16, sides=(224, 1024), words=(12, 40)),
            # As many tokens a step as in the others, or the peers' activations would fit no card.
            RowSet(name="long", rows=240, batch=4, sizes=_PHOTOS, words=(200, 400), max_seq_length=4096),
            # Two answers of some 513 tokens each, 256 of them the image's.
            RowSet(name="pairs", rows=240, batch=8, sizes=_PHOTOS[:1], words=(50, 54), is_paired=True),
            # 513 tokens a row, 256 of them the image's.
            RowSet(name="even", rows=1920, batch=16, sizes=_PHOTOS[:1], words=(49, 49), is_even=True),
        ),
        peer_steps=40,
    ),
    "cpu": Kind(
        device="cpu",
        shape="tiny",
        dtype="float32",
        least_pixels=BLOCK * BLOCK,
        sets=_name(
            RowSet(name="mixed", rows=80, batch=4, sizes=_SMALL_PHOTOS, words=(4, 12)),
            RowSet(name="one", rows=80, batch=4, sizes=_SMALL_PHOTOS[:1], words=(4, 12)),
            RowSet(name="all", rows=80, batch=4, sides=(56, 256), words=(4, 12)),
            RowSet(name="long", rows=40, batch=2, sizes=_SMALL_PHOTOS, words=(50, 100)),
            RowSet(name="pairs", rows=40, batch=2, sizes=_SMALL_PHOTOS[:1], words=(4, 12), is_paired=True),
            # 62 tokens a row, 16 of them the image's.
            RowSet(name="even", rows=80, batch=4, sizes=_SMALL_PHOTOS[:1], words=(9, 9), is_even=True),
        ),
        peer_steps=10,
    ),
}


@attrs.frozen(kw_only=True)
class Drawn:
    """A row before it is written.

    Attributes:
        size: Of its image.
        answer: Its text.
        rejected: That of the worse answer; empty without one.
    """

    size: Size
    answer: str
    rejected: str = ""


def draw_rows(rows: RowSet, seed: int) -> list[Drawn]:
    """Draw the rows of a set: the same for the same set and seed.

    Raises:
        ValueError: There are not so many different sizes between the least and the most side.
    """
    generator = _generator(rows.name, seed)
    sizes = _draw_sizes(rows, generator)
    least, most = rows.words

    def draw_answer() -> str:
        if rows.is_even:
            return " ".join([FIRST_WORD, *generator.permutation(np.resize(WORDS, most - 1)).tolist()])
        return " ".join(generator.choice(WORDS, generator.integers(least, most + 1)).tolist())

    if rows.is_paired:
        return [Drawn(size=size, answer=draw_answer(), rejected=draw_answer()) for size in sizes]
    return [Drawn(size=size, answer=draw_answer()) for size in sizes]


def _draw_sizes(rows: RowSet, generator: np.random.Generator) -> list[Size]:
    if rows.sides is None:
        return [rows.sizes[place] for place in generator.integers(0, len(rows.sizes), rows.rows)]
    least, most = rows.sides
    if rows.rows > (most + 1 - least) ** 2:
        msg = f"--rows: found {rows.rows}, but sides of {least} to {most} make fewer sizes; give fewer rows"
        raise ValueError(msg)
    drawn: dict[Size, None] = {}
    while len(drawn) < rows.rows:
        width, height = generator.integers(least, most + 1, 2).tolist()
        drawn[width, height] = None
    return list(drawn)


def write_rows(rows: RowSet, seed: int, folder: Path) -> Path:
    """Write a set, unless it is there: a JSONL file with the images beside it.

    Args:
        rows: The set.
        seed: Fixes it.
        folder: Where; made if need be.

    Returns:
        The JSONL file.

    Raises:
        ValueError: As `draw_rows`.
    """
    path, spec = folder / ROWS_NAME, folder / SPEC_NAME
    wanted = json.dumps({"seed": seed, **attrs.asdict(rows)})
    if path.is_file() and spec.is_file() and spec.read_text(encoding="utf-8") == wanted:
        return path
    drawn = draw_rows(rows, seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"image": f"images/{number}.jpg", **write_texts(row)}) + "\n" for number, row in enumerate(drawn)
    ]

    def draw(number: int) -> None:
        image = draw_image(drawn[number].size, _generator(rows.name, seed, number))
        image.save(folder / f"images/{number}.jpg", quality=JPEG_QUALITY)

    # Scaling and coding leave Python's lock to others.
    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(len(drawn))))
    path.write_text("".join(lines), encoding="utf-8")
    # Last: a folder that has it is whole.
    spec.write_text(wanted, encoding="utf-8")
    return path


def write_texts(row: Drawn) -> dict[str, str]:
    """Give the columns of a row's texts, as all programs read them."""
    if row.rejected:
        return {"prompt": QUESTION, "chosen": row.answer, "rejected": row.rejected}
    return {"question": QUESTION, "answer": row.answer}


def draw_image(size: Size, generator: np.random.Generator) -> Image.Image:
    """Draw an image that takes about as long to decode as a photo of its size."""
    width, height = size
    blocks = generator.integers(0, 256, (-(-height // BLOCK) + 1, -(-width // BLOCK) + 1, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def _generator(name: str, seed: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng((seed, SET_NAMES.index(name), *numbers))


RECIPE = """\
[model]
path = {model}
full_finetune = {full}

[data]
path = {rows}
train_on_completions = true
max_seq_length = {max_seq_length}

[lora]
rank = {rank}
alpha = {alpha}

[optim]
learning_rate = {learning_rate}

[train]
objective = {objective}
batch_size = {batch}
epochs = {epochs}
grad_checkpoint = {full}
steps_per_save = 1000000
"""


def write_recipe(path: Path, **values: str | float) -> Path:
    """Write a recipe: what the case needs, and defaults for all else.

    Args:
        path: Where.
        values: What `RECIPE` leaves open: `objective` is "sft" and `full` is False where they are not given. JSON's
            strings, numbers and truth values are TOML.
    """
    known = {"objective": "sft", "full": False, **values}
    path.write_text(RECIPE.format_map({name: json.dumps(value) for name, value in known.items()}), encoding="utf-8")
    return path


def choose_sets(kind: Kind, names: Sequence[str], rows: int | None, batch: int | None) -> list[RowSet]:
    """Choose sets, with another number of rows or another batch where one is given.

    Raises:
        ValueError: There is no such set.
    """
    if unknown := [name for name in names if name not in kind.sets]:
        msg = f"--sets: found {unknown[0]!r}, expected some of {', '.join(kind.sets)}"
        raise ValueError(msg)
    chosen = (kind.sets[name] for name in names)
    return [attrs.evolve(found, rows=rows or found.rows, batch=batch or found.batch) for found in chosen]
