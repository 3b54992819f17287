"""Checkpoints that transformers writes, with random weights, for families of `made_cases`. Needs no MLX."""

import inspect
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM

from .generate import TorchRow
from .made_cases import IMAGE_TOKEN, MADE, join
from .stages import make_parser

PYTORCH = {"format": "pt"}
"""What a file of transformers' says of its layout."""


def make_checkpoint(family: str, work: Path) -> None:
    """Write the weights as transformers publishes them beside the family's configuration, and transformers' own."""
    case = MADE[family]
    written = json.loads((work / "model" / "config.json").read_text())
    settings = join(written, case.settings)
    kind = settings.pop("model_type")
    config = AutoConfig.for_model(kind, **settings)
    auto = AutoModelForMultimodalLM if case.part else AutoModelForImageTextToText
    model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32)
    draw_weights(model)
    whole = work / "reference"
    if case.part:
        getattr(model, case.part).save_pretrained(whole)
        whole = work / "whole"
    model.save_pretrained(whole)
    files = list(whole.glob("*.safetensors"))
    if case.reads_saved:
        files.append(whole / "config.json")
    for file in files:
        (work / "model" / file.name).write_bytes(file.read_bytes())
    if case.spelled:
        for file in (work / "model").glob("*.safetensors"):
            save_file({spell(name, case.spelled): value for name, value in load_file(file).items()}, file, PYTORCH)


def spell(name: str, spelled: Mapping[str, str]) -> str:
    """Give a parameter the name that it was published under."""
    for part, published in spelled.items():
        name = name.replace(part, published)
    return name


def draw_weights(model: nn.Module) -> None:
    """Draw every weight by its name: norms around what they are made with, matrices so that activations keep size."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(parameter.shape))
            if parameter.ndim <= 1:
                start = parameter.numpy()
                value = np.where(np.abs(start - 1) < 1e-6, start, 0.0) + 0.1 * draw
            else:
                inputs = parameter.shape[-1] if parameter.ndim == 3 else int(np.prod(parameter.shape[1:]))
                value = draw / np.sqrt(inputs)
            parameter.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))


def read_rows(family: str, work: Path, model: nn.Module) -> list[TorchRow]:
    """Read the rows as transformers' model takes them."""
    case, arrays = MADE[family], load_file(work / "rows.safetensors")
    known = inspect.signature(model.forward).parameters
    rows = []
    for number in range(len(case.reads)):
        tokens = torch.from_numpy(arrays[f"{number}.tokens"].astype(np.int64))[None]
        before = f"{number}.inputs."
        inputs: dict[str, Tensor] = {"input_ids": tokens}
        for key, value in arrays.items():
            if key.startswith(before):
                tensor = torch.from_numpy(value)
                inputs[key.removeprefix(before)] = tensor if tensor.is_floating_point() else tensor.long()
        if "mm_token_type_ids" in known:
            inputs["mm_token_type_ids"] = (tokens == getattr(model.config, "image_token_id", IMAGE_TOKEN)).long()
        if case.part:
            # Qwen3-Omni's thinker gives images positions of their own only beside a mask.
            inputs["attention_mask"] = torch.ones_like(tokens)
        rows.append(TorchRow(inputs, torch.zeros(tokens.shape[1], dtype=torch.bool)))
    return rows


def main() -> None:
    """Make the checkpoints of the named families, or of all."""
    options = make_parser("made_reference", __doc__, "what tests.golden.made_side wrote").parse_args()
    torch.set_num_threads(1)
    for family in options.families or MADE:
        make_checkpoint(family, options.work / family)


if __name__ == "__main__":
    main()
