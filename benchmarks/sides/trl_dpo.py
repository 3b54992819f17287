"""The benchmark's pairs through TRL's DPOTrainer with PEFT's LoRA, as a script that users write.

    python -m benchmarks.sides.trl_dpo MODEL ROWS BATCH STEPS FILE

The reference is the model with its adapters off. As for `trl_sft` otherwise: what is read and written, and with which
versions.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..cases import LEARNING_RATE, RANK, TARGETS
from .trl_sft import LOADER_WORKERS, open_processor, run_side, say


def train(model: Path, rows: Path, batch: int, steps: int, output: Path) -> dict[str, Any]:
    """Train for some steps.

    Returns:
        `marks`: Unix time at the end of each; the device, its name, and the peak of what torch allocated on it.
    """
    import torch
    from peft import LoraConfig
    from transformers import Qwen3VLForConditionalGeneration, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    on_gpu = torch.cuda.is_available()
    marks: list[float] = []

    class Clock(TrainerCallback):
        """Marks the end of every step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            marks.append(time.time())

    settings = DPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16=on_gpu,
        gradient_checkpointing=False,
        max_length=None,
        beta=0.1,
        dataloader_num_workers=LOADER_WORKERS,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
    )
    where = r".*language_model.*\.(" + "|".join(TARGETS) + ")"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    opened = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
    trainer = DPOTrainer(
        model=opened.to("cuda" if on_gpu else "cpu"),
        args=settings,
        train_dataset=read_pairs(rows),
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
