"""Commands run in the tests' own process, and the options of the older script."""

from typing import Any

import pytest

from vlora.cli.main import main

# The older script's options, and those that name rows to validate on.
# Of each: name, default, the recipe's key, a value on the command line and as the recipe has it.
OLDER_OPTIONS: list[tuple[str, Any, str, list[str], Any]] = [
    ("model-path", "mlx-community/Qwen2-VL-2B-Instruct-bf16", "model.path", ["some/model"], "some/model"),
    ("full-finetune", False, "model.full_finetune", [], True),
    ("train-vision", False, "model.train_vision", [], True),
    ("split", "train", "data.split", ["test"], "test"),
    ("dataset-config", None, "data.config", ["en"], "en"),
    ("valid-dataset", None, "data.valid_path", ["held-out.jsonl"], "held-out.jsonl"),
    ("valid-split", None, "data.valid_split", ["validation"], "validation"),
    ("valid-fraction", 0.0, "data.valid_fraction", ["0.1"], 0.1),
    ("image-resize-shape", None, "data.image_resize_shape", ["512", "384"], (512, 384)),
    ("custom-prompt-format", None, "data.custom_prompt_format", ['{"user": "{q}"}'], '{"user": "{q}"}'),
    ("learning-rate", 2e-5, "optim.learning_rate", ["1e-4"], 1e-4),
    ("batch-size", 4, "train.batch_size", ["2"], 2),
    ("iters", 1000, "train.iters", ["7"], 7),
    ("epochs", None, "train.epochs", ["3"], 3),
    ("steps-per-report", 10, "train.steps_per_report", ["1"], 1),
    ("steps-per-eval", 200, "train.steps_per_eval", ["5"], 5),
    ("steps-per-save", 100, "train.steps_per_save", ["5"], 5),
    ("val-batches", 25, "train.val_batches", ["-1"], -1),
    ("max-seq-length", 2048, "data.max_seq_length", ["512"], 512),
    ("grad-checkpoint", False, "train.grad_checkpoint", [], True),
    ("grad-clip", None, "optim.grad_clip", ["1"], 1.0),
    ("train-on-completions", False, "data.train_on_completions", [], True),
    ("gradient-accumulation-steps", 1, "train.gradient_accumulation_steps", ["4"], 4),
    ("assistant-id", None, "data.assistant_id", ["5"], 5),
    ("lora-rank", 8, "lora.rank", ["16"], 16),
    ("lora-alpha", 16.0, "lora.alpha", ["32"], 32.0),
    ("lora-dropout", 0.0, "lora.dropout", ["0.1"], 0.1),
    ("output-path", "adapters.safetensors", "output.path", ["out/a.safetensors"], "out/a.safetensors"),
    ("adapter-path", None, "model.adapter_path", ["old"], "old"),
]


def exit_code(arguments: list[str]) -> int:
    """Run the command line; argparse exits by itself."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails: status 2, nothing of a traceback, and the message."""
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()

    assert "Traceback" not in printed.err + printed.out
    return printed.err
