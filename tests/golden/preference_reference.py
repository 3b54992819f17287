"""Second stage of the golden files of preferences: what TRL's trainers compute. Needs neither MLX nor vlora.

It is run by hand, after `tests.golden.preference_prepare`, in the environment of the `preferences` dependency group:

    .venv-reference/bin/python -m tests.golden.preference_reference --work /tmp/golden

TRL trains a LoRA on the very checkpoint, with the adapters that vlora's side has, from the texts of prompts and
answers; its reference is the model with its adapters off. Its collator has to give the ids that vlora has. Losses that
TRL has not for images are computed by their published formulas, on the batches of its collator. Written are:

    preferences/trl.json            per family, precision and run, the losses of the steps, and what TRL logs of them
    preferences/trl.safetensors     `<family>.<precision>.<run>`: f32[factors, 1 + PROJECTIONS], how the adapters'
                                    factors changed (`cases.fingerprint`), in the order of their names
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
import torch.nn.functional as torch_functions
from datasets import Dataset
from peft import LoraConfig
from safetensors.numpy import load_file, save_file
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from .cases import ALPHA, CASES, RANK, ROWS, Array, fingerprint, initial_adapter
from .generate import MismatchError, find_places, load_model, open_processor, overwrite, reference_folder
from .preference_cases import LOSSES, PAIRS_OF_A_STEP, PRECISIONS, ROWS_OF_A_STEP, RUNS, STEPS, Loss, get_settings

GOLDEN = Path(__file__).parent / "preferences"
LOGGED = ("rewards/margins", "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy", "kl")
Pair = dict[str, str]


def keep_losses(trainer: Any) -> list[float]:
    """Give a list to which a trainer's losses are added as it computes them: what it logs is rounded."""
    found: list[float] = []
    compute = trainer.compute_loss

    def watched(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        found.append(float(loss.detach()))
        return loss

    trainer.compute_loss = watched
    return found


def make_trainer(folder: Path, family: str, precision: str, loss: Loss, output: str) -> tuple[Any, dict[str, Any]]:
    """Make TRL's trainer of a loss, its adapters those of vlora's side.

    Of a loss that TRL has not for images the trainer is another one's, for its model and its collator.

    Returns:
        The trainer, and the adapters' factors by vlora's names.

    Raises:
        MismatchError: A layer that is adapted in mlx-vlm is none in transformers.
    """
    case = CASES[family]
    with reference_folder(folder / "model", case) as checkpoint:
        model, processor = load_model(checkpoint, case), open_processor(checkpoint, case)
    places = find_places(model, load_file(folder / "weights.safetensors"))
    if precision == "4 bit":
        dequantized = load_file(folder / "dequantized.safetensors")
        overwrite(model, places, {name: value for name, value in dequantized.items() if name in places})
    shapes = json.loads((folder / "trained.json").read_text())[PRECISIONS[precision]]
    modules = {}
    for name in shapes:
        layer = name.rpartition(".")[0]
        modules[layer] = places[f"{layer}.weight"].name.removesuffix(".weight")
    pairs = json.loads((folder / "pairs.json").read_text())
    is_unpaired = loss.objective == "kto"
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=sorted(modules.values()))
    trainer = (KTOTrainer if is_unpaired else DPOTrainer)(
        model=model,
        args=make_config(loss, output),
        train_dataset=Dataset.from_list(unpaired_rows(pairs) if is_unpaired else paired_rows(pairs)),
        processing_class=processor,
        peft_config=lora,
    )
    known = dict(trainer.model.named_parameters())
    factors = {}
    for name, shape in shapes.items():
        layer, _, factor = name.rpartition(".")
        kind = {"lora_a": "lora_A", "lora_b": "lora_B"}[factor]
        factors[name] = parameter = known.pop(f"base_model.model.{modules[layer]}.{kind}.default.weight")
        parameter.data = torch.from_numpy(initial_adapter(name, tuple(shape))).T.contiguous().to(torch.float32)
    extra = [name for name, parameter in known.items() if parameter.requires_grad]
    if extra:
        msg = f"{family}: PEFT trains more than vlora: {extra}"
        raise MismatchError(msg)
    check_ids(trainer, folder, pairs, family, is_unpaired=is_unpaired)
    return trainer, factors


def make_config(loss: Loss, output: str) -> Any:
    """Make the settings of TRL's trainer: plain gradient descent, everything in float32."""
    common: dict[str, Any] = {
        "output_dir": output,
        "max_steps": STEPS,
        "learning_rate": loss.rate,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "beta": 0.1,
        "max_grad_norm": 0.0,
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
    }
    if loss.objective == "kto":
        return KTOConfig(per_device_train_batch_size=ROWS_OF_A_STEP, loss_type=loss.name, **common, **dict(loss.keys))
    own = dict(loss.keys) if loss.source == "trl" else {}
    return DPOConfig(
        per_device_train_batch_size=PAIRS_OF_A_STEP,
        loss_type=[loss.name if loss.source == "trl" else "sigmoid"],
        train_sampling_strategy="sequential",
        **common,
        **own,
    )


def paired_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Make the rows of TRL's DPOTrainer."""
    return [
        {
            "images": ROWS[pair["name"]].images(),
            **{side: pair[side] for side in ("prompt", "chosen", "rejected")},
        }
        for pair in pairs
    ]


def unpaired_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Make the rows of TRL's KTOTrainer: each pair's two answers, one after the other."""
    return [
        {
            "images": ROWS[pair["name"]].images(),
            "prompt": pair["prompt"],
            "completion": pair[side],
            "label": side == "chosen",
        }
        for pair in pairs
        for side in ("chosen", "rejected")
    ]


def check_ids(trainer: Any, folder: Path, pairs: list[Pair], family: str, *, is_unpaired: bool) -> None:
    """Compare what TRL's collator makes of the pairs with vlora's ids and masks.

    Raises:
        MismatchError: They differ.
    """
    arrays = load_file(folder / "pairs.safetensors")
    for number, pair in enumerate(pairs):
        for place, side in enumerate(("chosen", "rejected")):
            row, line = (2 * number + place, 0) if is_unpaired else (number, place)
            batch = trainer.data_collator([dict(trainer.train_dataset[row])])
            kept = batch["attention_mask"][line].bool()
            ids, learned = batch["input_ids"][line][kept].numpy(), batch["completion_mask"][line][kept].numpy()
            tokens, supervised = (arrays[f"{pair['name']}.{side}.{key}"] for key in ("tokens", "supervised"))
            n = int(np.flatnonzero(supervised)[-1]) + 1
            if not np.array_equal(ids, tokens[:n]) or not np.array_equal(learned, supervised[:n]):
                msg = f"{family} {pair['name']} {side}: TRL has {ids.tolist()}, vlora {tokens.tolist()}"
                raise MismatchError(msg)


def train_by_trl(trainer: Any) -> dict[str, Any]:
    """Let TRL train.

    Returns:
        "losses", and by TRL's names what it logs of each step.
    """
    losses = keep_losses(trainer)
    trainer.train()
    log = [line for line in trainer.state.log_history if "loss" in line]
    names = [name for name in LOGGED if name != "kl" or getattr(trainer, "calculate_KL", False)]
    logged = {name: [float(line[name]) for line in log] for name in names if all(name in line for line in log)}
    return {"losses": losses, **logged}


def train_by_formula(trainer: Any, factors: dict[str, Any], loss: Loss) -> dict[str, Any]:
    """Take the steps of a loss by its formula, on the batches of TRL's collator."""
    rows, losses = [dict(row) for row in trainer.train_dataset], []
    model = trainer.model.train()
    for number in range(STEPS):
        start = PAIRS_OF_A_STEP * (number % -(-len(rows) // PAIRS_OF_A_STEP))
        batch = dict(trainer.data_collator([dict(row) for row in rows[start : start + PAIRS_OF_A_STEP]]))
        learned = batch.pop("completion_mask")[:, 1:].bool()
        logps, lengths = sum_logps(model, batch, learned), learned.sum(dim=1)
        with torch.no_grad(), model.disable_adapter():
            reference = sum_logps(model, batch, learned)
        value = formula(loss, logps, reference, lengths)
        gradients = torch.autograd.grad(value, list(factors.values()))
        with torch.no_grad():
            for parameter, gradient in zip(factors.values(), gradients, strict=True):
                parameter.sub_(loss.rate * gradient)
        losses.append(float(value.detach()))
    return {"losses": losses}


def sum_logps(model: Any, batch: dict[str, Any], learned: torch.Tensor) -> torch.Tensor:
    """Sum the log-probabilities of each answer's tokens, from all logits: f32[2B], the better answers first."""
    logits = model(**batch, use_cache=False).logits[:, :-1].float()
    own = logits.log_softmax(dim=-1).gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    return torch.where(learned, own, 0.0).sum(dim=1)


def formula(loss: Loss, logps: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Compute a loss as its paper has it: the mean over pairs."""
    keys, log_sigmoid = get_settings(loss), torch_functions.logsigmoid
    beta, (chosen, rejected) = keys["beta"], logps.chunk(2)
    mean_chosen, mean_rejected = (logps / lengths).chunk(2)
    nll = -mean_chosen
    if loss.objective == "dpo":
        ratio_chosen, ratio_rejected = (logps - reference).chunk(2)
        # DPO-Positive, arXiv 2402.13228, equation 3
        penalty = keys["dpop"] * torch.relu(-ratio_chosen)
        margin, flipped = beta * (ratio_chosen - ratio_rejected - penalty), keys["label_smoothing"]
        # cDPO, https://ericmitchell.ai/cdpo.pdf, equation 4
        found = -(1 - flipped) * log_sigmoid(margin) - flipped * log_sigmoid(-margin)
        if loss.parts:  # MPO, arXiv 2411.10442, equations 1 to 4, rewards without a shift
            quality = -log_sigmoid(beta * ratio_chosen) - log_sigmoid(-beta * ratio_rejected)
            found = loss.parts["sigmoid"] * found + loss.parts["bco_pair"] * quality + loss.parts["sft"] * nll
        return found.mean()
    if loss.objective == "orpo":  # arXiv 2403.07691, equations 3, 6 and 7; P is the mean's exponential
        odds = [mean.exp() / (1 - mean.exp()) for mean in (mean_chosen, mean_rejected)]
        return (nll - beta * log_sigmoid((odds[0] / odds[1]).log())).mean()
    if loss.name == "simpo":  # arXiv 2405.14734, equation 6
        return (-log_sigmoid(beta * mean_chosen - beta * mean_rejected - keys["gamma"])).mean()
    if loss.name == "hinge":  # TRL's `cpo_loss`
        return (torch.relu(1 - beta * (chosen - rejected)) + keys["nll_weight"] * nll).mean()
    if loss.name == "ipo":  # the same, of means
        return ((mean_chosen - mean_rejected - 1 / (2 * beta)).square() + keys["nll_weight"] * nll).mean()
    # CPO, arXiv 2401.08417, equations 3 to 5
    return (-log_sigmoid(beta * chosen - beta * rejected) + keys["nll_weight"] * nll).mean()


def main() -> None:
    """Train all runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.preference_reference")
    parser.add_argument("--work", required=True, type=Path, help="what preference_prepare wrote")
    parser.add_argument(
        "--add", nargs="*", metavar="RUN", help="these alone, beside what is stored of the same versions"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "trl")}
    }
    arrays: dict[str, Array] = {}
    if options.add:
        found, arrays = read_stored(found["versions"])
    for family, precision, run in [own for own in RUNS if not options.add or own[2] in options.add]:
        loss = LOSSES[run]
        with tempfile.TemporaryDirectory() as output:
            trainer, factors = make_trainer(options.work / family, family, precision, loss, output)
            before = {name: value.detach().T.numpy().copy() for name, value in factors.items()}
            own = train_by_trl(trainer) if loss.source == "trl" else train_by_formula(trainer, factors, loss)
        after = {name: value.detach().T.numpy() for name, value in factors.items()}
        arrays[f"{family}.{precision}.{run}"] = np.stack(
            [fingerprint(name, after[name] - before[name]) for name in sorted(factors)]
        )
        found.setdefault(family, {}).setdefault(precision, {})[run] = own
        print(family, precision, run, own["losses"][0], own["losses"][-1], flush=True)
    (GOLDEN / "trl.json").write_text(json.dumps(rounded(found)) + "\n")
    save_file(arrays, GOLDEN / "trl.safetensors")


def read_stored(versions: dict[str, str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read what was computed before.

    Raises:
        MismatchError: By other versions.
    """
    found = json.loads((GOLDEN / "trl.json").read_text())
    if found["versions"] != versions:
        msg = f"trl.json: found the numbers of {found['versions']}, and these versions are {versions}; compute all runs"
        raise MismatchError(msg)
    return found, load_file(GOLDEN / "trl.safetensors")


def rounded(value: Any) -> Any:
    """Round numbers to seven digits, which is what float32 has."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: rounded(own) for name, own in value.items()}
    return [rounded(own) for own in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
