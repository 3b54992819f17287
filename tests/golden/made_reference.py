"""Checkpoints that transformers writes, with random weights, for families of `made_cases`. Needs no MLX."""

import inspect
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from timm.models import mobilenetv5
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM

from .cases import Array
from .generate import TorchRow
from .made_cases import IMAGE_TOKEN, MADE, STANDS_ALONE, Made, join
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
    with building(case):
        model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32)
    draw_weights(model, case)
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
    if case.spelled or case.halves or case.unsaved or case.unread:
        for file in (work / "model").glob("*.safetensors"):
            save_file(publish(load_file(file), case), file, PYTORCH)


@contextmanager
def building(case: Made) -> Iterator[None]:
    """Let timm's tower of a family have few channels, and four features of an image, while a model is made."""
    if not case.timm_blocks:
        yield
        return
    decode, fusion = mobilenetv5.decode_arch_def, mobilenetv5.MobileNetV5MultiScaleFusionAdapter

    def fuse(**settings: Any) -> nn.Module:
        width = int(case.timm_blocks[-1][-1].rpartition("c")[2])
        fused: nn.Module = fusion(**{**settings, "out_chs": width, "output_resolution": 2})
        return fused

    with mock.patch.multiple(
        mobilenetv5,
        decode_arch_def=lambda _, **settings: decode([list(stage) for stage in case.timm_blocks], **settings),
        MobileNetV5MultiScaleFusionAdapter=fuse,
    ):
        yield


def publish(arrays: Mapping[str, Array], case: Made) -> dict[str, Array]:
    """Lay out and name arrays as they were published."""
    divided = divide(arrays, case.halves)
    found = {name: value for name, value in divided.items() if not any(part in name for part in case.unread)}
    found |= {name: found[name].T.copy() for name in case.turned}
    found |= {name: found[name][None] for name in case.single}
    found |= {name: np.zeros(shape, dtype=np.float32) for name, shape in case.unsaved.items()}
    if case.joined:
        found = join_attention(found, case.joined)
    return {spell(name, case.spelled): value for name, value in found.items()}


def join_attention(arrays: Mapping[str, Array], begin: str) -> dict[str, Array]:
    """Join queries, keys and values of layers whose names begin so."""
    joined = {}
    for name, value in arrays.items():
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if name.startswith(begin) and ".q_proj." in name:
            joined[name.replace(".q_proj.", ".qkv.")] = np.concatenate([arrays[part] for part in parts])
        elif not name.startswith(begin) or not any(f".{part}_proj." in name for part in "kv"):
            joined[name] = value
    return joined


def divide(arrays: Mapping[str, Array], halves: Iterable[tuple[str, str, int]]) -> dict[str, Array]:
    """Divide tables as they were published, where transformers saves them as two halves."""
    divided = dict(arrays)
    for first, second, rows in halves:
        whole = np.concatenate([arrays[first], arrays[second]])
        divided[first], divided[second] = whole[:rows].copy(), whole[rows:].copy()
    return divided


def spell(name: str, spelled: Mapping[str, str]) -> str:
    """Give a parameter the name that it was published under."""
    for part, published in spelled.items():
        name = name.replace(part, published)
    return name


def draw_weights(model: nn.Module, case: Made) -> None:
    """Draw every weight by its name: norms around what they are made with, matrices so that activations keep size.

    Args:
        model: Its parameters are set.
        case: Says which are multiplied, and which stay.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in case.kept):
                continue
            draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(parameter.shape))
            if parameter.ndim <= 1:
                start = parameter.numpy()
                value = np.where(np.abs(start - 1) < 1e-6, start, 0.0) + 0.1 * draw
            else:
                inputs = parameter.shape[-1] if parameter.ndim == 3 else int(np.prod(parameter.shape[1:]))
                value = draw / np.sqrt(inputs) * case.louder.get(name, 1.0)
            parameter.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))


def read_rows(family: str, work: Path, model: nn.Module) -> list[TorchRow]:
    """Read the rows as transformers' model takes them."""
    case, arrays = MADE[family], load_file(work / "rows.safetensors")
    known = inspect.signature(model.forward).parameters
    rows = []
    for number in range(len(case.reads)):
        tokens = torch.from_numpy(arrays[f"{number}.tokens"].astype(np.int64))[None]
        before = f"{number}.inputs."
        written = "decoder_input_ids" if f"{number}.inputs.input_ids" in arrays else "input_ids"
        inputs: dict[str, Any] = {written: tokens}
        if case.expands:
            inputs = expand(tokens, case.expands)
        for key, value in arrays.items():
            if key.startswith(before):
                tensor = torch.from_numpy(value)
                inputs[key.removeprefix(before)] = tensor if tensor.is_floating_point() else tensor.long()
        if "patches_grid" in inputs:
            inputs |= {key: inputs[key].tolist() for key in ("num_local_patches", "patches_grid")}
        if "mm_token_type_ids" in known:
            marked = case.marked or (getattr(model.config, "image_token_id", IMAGE_TOKEN),)
            inputs["mm_token_type_ids"] = torch.isin(tokens, torch.tensor(marked)).long()
        if "moe_mm_token_type_ids" in known:
            # ERNIE's experts for images read what stands before and behind them too.
            ends = [model.config.image_token_id, model.config.image_start_token_id, model.config.image_end_token_id]
            inputs["moe_mm_token_type_ids"] = torch.isin(tokens, torch.tensor(ends)).int()
        if case.part:
            # Qwen3-Omni's thinker gives images positions of their own only beside a mask.
            inputs["attention_mask"] = torch.ones_like(tokens)
        if case.masks:
            inputs["attention_mask"] = generation_masks(model, inputs)
        rows.append(TorchRow(inputs, torch.zeros(tokens.shape[1], dtype=torch.bool)))
    return rows


def expand(tokens: Tensor, n_features: int) -> dict[str, Tensor]:
    """Give an image as many ids as it has features, and ask for the logits of what stood there before.

    Args:
        tokens: i64[1, T].
        n_features: Of each image.
    """
    is_image = tokens[0] == STANDS_ALONE
    lengths = torch.where(is_image, n_features, 1)
    ids = torch.where(is_image, IMAGE_TOKEN, tokens[0])
    return {"input_ids": ids.repeat_interleave(lengths)[None], "logits_to_keep": lengths.cumsum(0) - 1}


def generation_masks(model: Any, inputs: Mapping[str, Tensor]) -> Any:
    """Make the masks by kind of layer that `model.generate` makes for a whole row."""
    tokens = inputs["input_ids"]
    with torch.no_grad():
        embeds = model.get_input_embeddings()(tokens)
    return model.create_masks_for_generate(
        config=model.config,
        inputs_embeds=embeds,
        attention_mask=torch.ones_like(tokens),
        past_key_values=None,
        position_ids=None,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )


def main() -> None:
    """Make the checkpoints of the named families, or of all."""
    options = make_parser("made_reference", __doc__, "what tests.golden.made_side wrote").parse_args()
    torch.set_num_threads(1)
    for family in options.families or MADE:
        make_checkpoint(family, options.work / family)


if __name__ == "__main__":
    main()
