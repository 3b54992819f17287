"""Write a random model of a named shape as published ones are: weights, configuration, tokenizer, processor.

python -m benchmarks.sides.publishing SHAPE DTYPE LEAST_PIXELS FOLDER
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vlora  # noqa: F401 - before mlx: it binds a fast BLAS

# isort: split
import mlx.core as mx

from vlora.models import build_tiny_qwen3_vl

from ..folders import draw_folder
from ..shapes import MERGE, PATCH, SHAPES

COPIED = ("tokenizer_config.json", "chat_template.json")
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "eos_token_id": "<|im_end|>",
}
MOST_PIXELS = 2**24
"""Published Qwen3-VL's."""


def publish(shape: str, dtype: str, least_pixels: int, folder: Path) -> Path:
    """Write a model, unless it is there.

    Args:
        shape: A key of `SHAPES`.
        dtype: Of the weights, as MLX names it.
        least_pixels: The processor scales smaller images up to so many.
        folder: Where.

    Returns:
        The folder. Its tokenizer knows the words of the quickstart's model, so that a word is some four tokens, and has
        as many tokens as the model: what a program does with all of them takes as long as with a published one.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = draw_folder(SHAPES[shape], Path(temporary) / "model", dtype=getattr(mx, dtype))
        tiny = build_tiny_qwen3_vl(Path(temporary) / "tiny")
        for name in COPIED:
            shutil.copy(tiny / name, made / name)
        processor = json.loads((tiny / "preprocessor_config.json").read_text(encoding="utf-8"))
        processor |= {"patch_size": PATCH, "merge_size": MERGE}
        processor["size"] = {"shortest_edge": least_pixels, "longest_edge": MOST_PIXELS}
        (made / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        tokenizer = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
        fill_vocabulary(tokenizer, SHAPES[shape].words)
        (made / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        config |= {name: numbers[token] for name, token in TOKENS.items()}
        generation = {"eos_token_id": config["eos_token_id"]}
        (made / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        # Whole as soon as it is there.
        made.rename(folder)
    return folder


def fill_vocabulary(tokenizer: dict[str, Any], n_tokens: int) -> None:
    """Give a tokenizer a vocabulary of a published one's size, in place.

    Args:
        tokenizer: The content of its tokenizer.json.
        n_tokens: Tokens that it has then, the added ones last; no text has those that are new.
    """
    words, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    for number in range(len(words), n_tokens - len(added)):
        words[f"unused {number}"] = number
    for number, token in enumerate(added, len(words)):
        token["id"] = number


def main(arguments: Sequence[str]) -> None:
    """Write the model that the command line names."""
    shape, dtype, least_pixels, folder = arguments
    publish(shape, dtype, int(least_pixels), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
