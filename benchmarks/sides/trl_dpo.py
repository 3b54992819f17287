"""The benchmark's pairs through TRL's DPOTrainer with PEFT's LoRA, as a script that users write.

    python -m benchmarks.sides.trl_dpo MODEL ROWS BATCH STEPS FILE

The reference is the model with its adapters off. As for `trl_sft` otherwise: what is read and written, and with which
versions.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from .trl_sft import run_side, say, train_with


def train(model: Path, rows: Path, batch: int, steps: int, output: Path) -> dict[str, Any]:
    """Train for some steps; see `trl_sft.train_with`."""
    from trl import DPOConfig, DPOTrainer

    return train_with(DPOTrainer, functools.partial(DPOConfig, beta=0.1), read_pairs(rows), model, batch, steps, output)


def read_pairs(path: Path) -> Any:
    """Give the pairs as TRL takes those with images: images, prompt, chosen and rejected."""
    from datasets import Dataset, Image
    from datasets import Sequence as ListOf

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns = {
        "images": [[str(path.parent / row["image"])] for row in rows],
        "prompt": [[say("user", row["prompt"], with_image=True)] for row in rows],
        "chosen": [[say("assistant", row["chosen"])] for row in rows],
        "rejected": [[say("assistant", row["rejected"])] for row in rows],
    }
    return Dataset.from_dict(columns).cast_column("images", ListOf(Image()))


if __name__ == "__main__":
    run_side(train, sys.argv[1:])
