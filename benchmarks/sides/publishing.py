"""Write a random model of a named shape as published ones are: weights, configuration, tokenizer, processor.

python -m benchmarks.sides.publishing SHAPE DTYPE LEAST_PIXELS FOLDER
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import vlora  # noqa: F401 - before mlx: it binds a fast BLAS

# isort: split
import mlx.core as mx

from vlora.backend import build_tiny_qwen3_vl

from ..folders import draw_folder
from ..shapes import MERGE, PATCH, SHAPES

COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "generation_config.json")
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "eos_token_id")
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
        The folder. Its tokenizer is that of the quickstart's model: a word is some four tokens.
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
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        of_tiny = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
        config |= {name: of_tiny[name] for name in TOKENS}
        (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        # Whole as soon as it is there.
        made.rename(folder)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Write the model that the command line names."""
    shape, dtype, least_pixels, folder = arguments
    publish(shape, dtype, int(least_pixels), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
