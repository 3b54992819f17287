"""Count the rows of a data set and their tokens, once for all programs.

    python -m benchmarks.sides.counting rows MODEL ROWS FILE
    python -m benchmarks.sides.counting recipe RECIPE FILE

The benchmark's own rows go through the model's own processor, with the conversation as its template writes it. Those of
a recipe may have any form, and are counted as vlora encodes them, cut where the recipe cuts them.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import vlora  # noqa: F401 - before mlx: it binds a fast BLAS

# isort: split
from PIL import Image

from vlora import load_data, models, parse_recipe
from vlora.errors import SampleError
from vlora.recipe.schema import ModelSection


def count_rows(model: Path, rows: Path) -> dict[str, Any]:
    """Count the benchmark's own rows."""
    section = ModelSection(path=str(model))
    processor = models.load_processor(models.find_model(section), section)
    template = json.loads((model / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]

    def count(line: str) -> int:
        row = json.loads(line)
        question = row["prompt"] if "prompt" in row else row["question"]
        answers = [row[name] for name in ("answer", "chosen", "rejected") if name in row]
        with Image.open(rows.parent / row["image"]) as opened:
            image = opened.convert("RGB")
        return sum(count_answer(image, question, answer) for answer in answers)

    def count_answer(image: Image.Image, question: str, answer: str) -> int:
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        text = processor.tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        return len(processor(text=[text], images=[image])["input_ids"][0])

    lines = rows.read_text(encoding="utf-8").splitlines()
    # The first alone: tokenizers settle how they pad when they are first asked.
    first = count(lines[0])
    with ThreadPoolExecutor() as pool:
        return {"rows": len(lines), "tokens": first + sum(pool.map(count, lines[1:]))}


def count_recipe(path: Path, folder: Path) -> dict[str, Any]:
    """Count the rows of a recipe; None instead of a batch where its steps take packed rows.

    Args:
        path: The recipe.
        folder: Where a built-in model is built.
    """
    recipe = parse_recipe(path.read_text(encoding="utf-8"), {"output.path": str(folder / "output")})
    data = load_data(recipe)

    def count(number: int) -> int:
        try:
            return sum(len(example.tokens) for example in data.encode(data.train[number]))
        except SampleError:
            if recipe.data.on_bad_row == "raise":
                raise
            return 0

    tokens = count(0) + sum(map(count, range(1, len(data.train))))
    train = recipe.train
    batch = None if train.batching == "packed" else train.batch_size * train.gradient_accumulation_steps
    return {"rows": len(data.train), "tokens": tokens, "batch": batch}


def main(arguments: Sequence[str]) -> None:
    """Count what the command line names."""
    what, *paths = arguments
    given, file = Path(paths[0]), Path(paths[-1])
    found = count_rows(given, Path(paths[1])) if what == "rows" else count_recipe(given, file.parent)
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
