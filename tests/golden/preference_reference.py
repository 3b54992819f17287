"""Second stage of the golden files of preferences: what TRL's DPOTrainer computes. Needs neither MLX nor vlora.

It is run by hand, after `tests.golden.preference_prepare`, in the environment of the `preferences` dependency group:

    .venv-reference/bin/python -m tests.golden.preference_reference --work /tmp/golden

TRL trains a LoRA on the very checkpoint, with the adapters that vlora's side has, from the texts of prompts and
answers; its reference is the model with its adapters off. Its collator has to give the ids that vlora has. Written is,
per family and loss, the loss and the margin of each step.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.numpy import load_file
from trl import DPOConfig, DPOTrainer

from .cases import ALPHA, CASES, RANK, ROWS, initial_adapter
from .generate import MismatchError, find_places, load_model, open_processor, reference_folder
from .preference_cases import FAMILIES, LEARNING_RATE, LOSSES, LOWER_RATES, PAIRS_OF_A_STEP, STEPS, THOROUGH

GOLDEN = Path(__file__).parent / "preferences" / "trl.json"


class Recorded(DPOTrainer):
    """TRL's trainer, whose losses are kept as it computes them: what it logs is rounded."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Compute a loss."""
        loss = super().compute_loss(*args, **kwargs)
        self.found = [*getattr(self, "found", []), float(loss.detach())]
        return loss


def make_trainer(folder: Path, family: str, loss: str, output: str) -> Any:
    """Make TRL's trainer of a loss, its adapters those of vlora's side.

    Raises:
        MismatchError: A layer that is adapted in mlx-vlm is none in transformers.
    """
    case = CASES[family]
    with reference_folder(folder / "model", case) as checkpoint:
        model, processor = load_model(checkpoint, case), open_processor(checkpoint, case)
    places = find_places(model, load_file(folder / "weights.safetensors"))
    shapes = json.loads((folder / "trained.json").read_text())["linears"]
    modules = {}
    for name in shapes:
        layer = name.rpartition(".")[0]
        modules[layer] = places[f"{layer}.weight"].name.removesuffix(".weight")
    pairs = json.loads((folder / "pairs.json").read_text())
    rows = [
        {
            "images": ROWS[pair["name"]].images(),
            "prompt": pair["prompt"],
            "chosen": pair["chosen"],
            "rejected": pair["rejected"],
        }
        for pair in pairs
    ]
    config = DPOConfig(
        output_dir=output,
        per_device_train_batch_size=PAIRS_OF_A_STEP,
        max_steps=STEPS,
        learning_rate=LOWER_RATES.get(loss, LEARNING_RATE),
        lr_scheduler_type="constant",
        optim="sgd",
        loss_type=[loss],
        beta=0.1,
        max_grad_norm=0.0,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        **LOSSES[loss],
    )
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=sorted(modules.values()))
    trainer = Recorded(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=processor, peft_config=lora
    )
    known = dict(trainer.model.named_parameters())
    for name, shape in shapes.items():
        layer, _, factor = name.rpartition(".")
        kind = {"lora_a": "lora_A", "lora_b": "lora_B"}[factor]
        parameter = known.pop(f"base_model.model.{modules[layer]}.{kind}.default.weight")
        parameter.data = torch.from_numpy(initial_adapter(name, tuple(shape))).T.contiguous().to(torch.float32)
    extra = [name for name, parameter in known.items() if parameter.requires_grad]
    if extra:
        msg = f"{family}: PEFT trains more than vlora: {extra}"
        raise MismatchError(msg)
    check_ids(trainer, folder, pairs, family)
    return trainer


def check_ids(trainer: Any, folder: Path, pairs: list[dict[str, str]], family: str) -> None:
    """Compare what TRL's collator makes of the pairs with vlora's ids and masks.

    Raises:
        MismatchError: They differ.
    """
    arrays = load_file(folder / "pairs.safetensors")
    for number, pair in enumerate(pairs):
        batch = trainer.data_collator([dict(trainer.train_dataset[number])])
        for place, side in enumerate(("chosen", "rejected")):
            kept = batch["attention_mask"][place].bool()
            ids, learned = batch["input_ids"][place][kept].numpy(), batch["completion_mask"][place][kept].numpy()
            tokens, supervised = (arrays[f"{pair['name']}.{side}.{key}"] for key in ("tokens", "supervised"))
            n = int(np.flatnonzero(supervised)[-1]) + 1
            if not np.array_equal(ids, tokens[:n]) or not np.array_equal(learned, supervised[:n]):
                msg = f"{family} {pair['name']} {side}: TRL has {ids.tolist()}, vlora {tokens.tolist()}"
                raise MismatchError(msg)


def main() -> None:
    """Train every family with the first loss, and one of them with all."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.preference_reference")
    parser.add_argument("--work", required=True, type=Path, help="what preference_prepare wrote")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "trl")}
    }
    for family in FAMILIES:
        for loss in LOSSES if family == THOROUGH else list(LOSSES)[:1]:
            with tempfile.TemporaryDirectory() as output:
                trainer = make_trainer(options.work / family, family, loss, output)
                trainer.train()
            logged = [line["rewards/margins"] for line in trainer.state.log_history if "rewards/margins" in line]
            found.setdefault(family, {})[loss] = {"losses": trainer.found, "margins": logged}
            print(family, loss, trainer.found[0], trainer.found[-1], flush=True)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
