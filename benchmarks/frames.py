"""Count the functions between `python -m vlora` and the loss: what a reader of a traceback has to pass.

    python -m benchmarks.frames [recipe]

carries out one step of a recipe (`recipes/quickstart.toml`) as the command line does, prints vlora's own frames on the
stack where the loss is traced, outermost first, and their number.
"""

import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

import mlx.core as mx

import vlora
from vlora.train.objectives.named import OBJECTIVES

PACKAGE = Path(vlora.__file__).parent


def frames_to_loss(recipe: str, *options: str) -> list[str]:
    """Carry out one step of a recipe: "file function" of each frame of vlora's, outermost first.

    Args:
        recipe: Its file.
        options: More options of the command line.
    """
    found: list[list[str]] = []

    def noting(logits: mx.array, targets: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        stack = [frame for frame in traceback.extract_stack()[:-1] if Path(frame.filename).is_relative_to(PACKAGE)]
        found.append([f"{Path(frame.filename).relative_to(PACKAGE)} {frame.name}" for frame in stack])
        return vlora.loss_fn(logits, targets, weights)

    with tempfile.TemporaryDirectory() as folder:
        given = ["vlora", recipe, "--set", "train.iters=1", "--set", f"output.path={folder}/model/model", *options]
        with mock.patch.dict(OBJECTIVES, sft=noting), mock.patch.object(sys, "argv", given):
            try:
                runpy.run_module("vlora", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                if ended.code:
                    raise
    step = next(stack for stack in found if "train/loop.py run" in stack)
    return [frame for frame in step if not frame.endswith("<module>")]


if __name__ == "__main__":
    frames = frames_to_loss(
        sys.argv[1] if len(sys.argv) > 1 else "recipes/quickstart.toml", "--set", "eval.answer_rows=0"
    )
    sys.stdout.write("\n".join([*frames, f"{len(frames)} frames", ""]))
