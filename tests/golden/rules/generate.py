"""Write rules.json: schedules of transformers, weight decay of its Trainer, rates of PEFT's LoRA+.

    python -m tests.golden.rules.generate        in an environment with the packages of the group "reference"

Steps of plain AdamW stand beside them, so that the rules are compared by what they do to weights.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from transformers import Trainer, get_scheduler

FILE = Path(__file__).with_name("rules.json")
RUNS = [
    (name, n, warmup) for name in ("constant", "linear", "cosine") for n, warmup in ((7, 3), (40, 0), (40, 1), (40, 8))
]
RATE, DECAY, RATIO = 1e-2, 0.1, 16.0


class Block(nn.Module):
    """A layer of each kind: products, norms by class and by name, biases, a table, a vector and a matrix of neither."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.q_proj = nn.Linear(4, 4, bias=True)
        self.input_layernorm = nn.LayerNorm(4)
        self.q_norm = nn.RMSNorm(4)
        self.relative_position_bias = nn.Parameter(torch.zeros(3, 4))
        self.mixing = nn.Parameter(torch.zeros(3, 4))
        self.lm_head = nn.Linear(4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Be called by nobody."""
        return self.q_proj(x)


def rates(name: str, n_steps: int, warmup: int) -> list[float]:
    """Give the rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    kind = "constant_with_warmup" if name == "constant" else name
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=n_steps)
    found = []
    for _ in range(n_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def fill(module: nn.Module) -> dict[str, Any]:
    """Give every parameter known numbers, and a known gradient; give both."""
    values = {}
    for index, (name, parameter) in enumerate(module.named_parameters()):
        if not parameter.requires_grad:
            continue
        numbers = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)
        parameter.data = torch.sin(numbers + index)
        parameter.grad = torch.cos(numbers * 2 + index)
        values[name] = {"value": parameter.detach().tolist(), "gradient": parameter.grad.tolist()}
    return values


def steps(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Take three steps with the same gradients; give every parameter before and after."""
    values = fill(module)
    for _ in range(3):
        optimizer.step()
    for name, parameter in module.named_parameters():
        if name in values:
            values[name]["after"] = parameter.detach().tolist()
    return values


def full() -> dict[str, Any]:
    """Take steps of full fine-tuning in the groups that the Trainer makes."""
    torch.manual_seed(0)
    block = Block()
    decayed = set(Trainer.get_decay_parameter_names(None, block))
    groups = [
        {"params": [value for name, value in block.named_parameters() if name in decayed], "weight_decay": DECAY},
        {"params": [value for name, value in block.named_parameters() if name not in decayed], "weight_decay": 0.0},
    ]
    return {"decayed": sorted(decayed), "params": steps(block, torch.optim.AdamW(groups, lr=RATE))}


def dora() -> dict[str, Any]:
    """Take steps of a DoRA with LoRA+'s rates."""
    torch.manual_seed(0)
    model = get_peft_model(Block(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO)
    rate_of = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    found = steps(model, optimizer)
    for name, value in model.named_parameters():
        if name in found:
            found[name]["rate"] = rate_of[id(value)]
    return found


if __name__ == "__main__":
    schedules = [{"schedule": name, "n": n, "warmup": w, "rates": rates(name, n, w)} for name, n, w in RUNS]
    content = {"rate": RATE, "decay": DECAY, "ratio": RATIO, "schedules": schedules, "full": full(), "dora": dora()}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
