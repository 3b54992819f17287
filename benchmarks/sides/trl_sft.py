"""The benchmark's rows through TRL's SFTTrainer with PEFT's LoRA, as a script that users write.

    python -m benchmarks.sides.trl_sft MODEL ROWS BATCH STEPS FILE

Written for torch 2.11, transformers 5.17, TRL 1.16 and PEFT 0.21: sdpa, bfloat16 on a GPU, eight loader workers. FILE
has the Unix time at the end of every step, or says which package is missing.
"""

import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..cases import LEARNING_RATE, RANK, TARGETS

NEEDED = ("torch", "transformers", "trl", "peft", "datasets")
LOADER_WORKERS = 8
SETTINGS = ("patch_size", "merge_size", "temporal_patch_size", "size", "image_mean", "image_std")
"""Of preprocessor_config.json, what the processors of images and videos are made with."""


def train(model: Path, rows: Path, batch: int, steps: int, output: Path) -> dict[str, Any]:
    """Train for some steps; see `train_with`."""
    from trl import SFTConfig, SFTTrainer

    settings = functools.partial(SFTConfig, completion_only_loss=True)
    return train_with(SFTTrainer, settings, read_rows(rows), model, batch, steps, output)


def train_with(
    trainer_class: Any, make_settings: Callable[..., Any], rows: Any, model: Path, batch: int, steps: int, output: Path
) -> dict[str, Any]:
    """Train for some steps with one of TRL's trainers.

    Args:
        trainer_class: The trainer.
        make_settings: Makes its settings from those that all trainers have.
        rows: A data set as the trainer takes it.
        model: The model's folder.
        batch: Rows of a step.
        steps: How many.
        output: Where the trainer may write.

    Returns:
        `marks`: Unix time at the end of each; the device, its name, and the peak of what torch allocated on it.
    """
    import torch
    from peft import LoraConfig
    from transformers import Qwen3VLForConditionalGeneration, TrainerCallback

    on_gpu = torch.cuda.is_available()
    marks: list[float] = []

    class Clock(TrainerCallback):
        """Marks the end of every step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            marks.append(time.time())

    settings = make_settings(
        output_dir=str(output),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16=on_gpu,
        gradient_checkpointing=False,
        max_length=None,
        dataloader_num_workers=LOADER_WORKERS,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
    )
    where = r".*language_model.*\.(" + "|".join(TARGETS) + ")"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    opened = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
    trainer = trainer_class(
        model=opened.to("cuda" if on_gpu else "cpu"),
        args=settings,
        train_dataset=rows,
        processing_class=open_processor(model),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=where),
        callbacks=[Clock()],
    )
    trainer.train()
    return {
        "marks": marks,
        "device": "cuda" if on_gpu else "cpu",
        "device_name": torch.cuda.get_device_name() if on_gpu else "",
        "peak_device_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "n_trainable": opened.num_parameters(only_trainable=True),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def read_rows(path: Path) -> Any:
    """Give the rows as TRL takes those with images: images, prompt and completion."""
    from datasets import Dataset, Image
    from datasets import Sequence as ListOf

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns = {
        "images": [[str(path.parent / row["image"])] for row in rows],
        "prompt": [[say("user", row["question"], with_image=True)] for row in rows],
        "completion": [[say("assistant", row["answer"])] for row in rows],
    }
    return Dataset.from_dict(columns).cast_column("images", ListOf(Image()))


def say(role: str, text: str, *, with_image: bool = False) -> dict[str, Any]:
    """Write a turn as TRL reads it."""
    # A column's entries all have the same keys.
    image = [{"type": "image", "text": None}] if with_image else []
    return {"role": role, "content": [*image, {"type": "text", "text": text}]}


def open_processor(model: Path) -> Any:
    """Make transformers' processor of the model's own files."""
    from transformers import AutoTokenizer, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    found = json.loads((model / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings = {name: found[name] for name in SETTINGS}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=AutoTokenizer.from_pretrained(model),
        video_processor=Qwen3VLVideoProcessor(**settings),
        chat_template=json.loads((model / "chat_template.json").read_text(encoding="utf-8"))["chat_template"],
    )


Train = Callable[[Path, Path, int, int, Path], dict[str, Any]]


def run_side(train: Train, arguments: Sequence[str]) -> None:
    """Train as the command line says, where everything for it is installed."""
    model, rows, batch, steps, file = arguments
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    path = Path(file)
    if missing:
        found: dict[str, Any] = {"skipped": f"{missing[0]} is not installed"}
    else:
        found = train(Path(model), Path(rows), int(batch), int(steps), path.parent / "trl")
    path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    run_side(train, sys.argv[1:])
