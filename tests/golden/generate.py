"""Write the golden files of the training tests: what torch, transformers and PEFT compute.

For each family the script makes a tiny random model in the checkpoint layout its family is
published in, a dozen rows of data, and two LoRA runs over them. The tests load the same model
through mlx-vlm, train on the same rows, and compare losses, gradient norms and adapters.

It is run by hand, and only when the reference has to change. Its environment is the `reference`
dependency group of pyproject.toml (torch==2.13.0, transformers==5.23.0, peft==0.21.2), which the
library itself never needs:

    python -m venv --upgrade-deps .venv-reference
    .venv-reference/bin/pip install --group reference  # pip 25.1 or newer
    .venv-reference/bin/python tests/golden/generate.py

The same versions on the same processor write the same bytes. Per family it writes, here:

    <family>/model/config.json         as published with transformers 4 (`rope_theta`, ...)
    <family>/model/model.safetensors   float32, keys as published
    <family>/rows.safetensors          `<row>.input_ids` int32 [tokens],
                                       `<row>.supervised` bool [tokens], true where the token is a
                                       target (predicted from the token before it),
                                       `<row>.pixel_values` and, in qwen2_vl,
                                       `<row>.image_grid_thw` int32 [images, 3]; a row without
                                       images has neither
    <family>/<run>.safetensors         `<moment>.<module path>.lora_A` [rank, in] and `.lora_B`
                                       [out, rank], moment `initial` or `final`, module path as
                                       mlx-vlm names it
    <family>/<run>.json                the run's settings, `microbatches` (for each step, for each
                                       microbatch, the rows' indices), and for each step the
                                       loss and the gradient's global norm before clipping

The loss of a step is the summed negative log likelihood of all its targets over their number,
however the rows are spread over microbatches; the gradient is this loss's. No quantity is a mean
of means.
"""

import importlib.metadata
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing here may come from the network, and no number may depend on what is cached.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

GOLDEN = Path(__file__).parent

STEPS = 10
RANK = 4
ALPHA = 8
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PAD_TOKEN = 0
# Text tokens are drawn below this number; everything above is kept for special tokens.
TEXT_TOKENS = 240

Segment = int | tuple[int, int]
"""A part of a row: n prompt tokens, -n supervised tokens, or an image of h x w patches."""

Row = dict[str, Tensor]
"""A row's arrays, by their names in rows.safetensors."""


@dataclass(frozen=True)
class Family:
    """What sets one model family apart from the other.

    Attributes:
        name: The family, which is also its `model_type` and its folder.
        seed: Where the random numbers of the family start.
        config: The content of config.json.
        config_class: The transformers class that reads `config`.
        model_class: The transformers class of the model.
        published: Regular expressions and their replacements, which turn a parameter's name in
            transformers 5 into its name in a published checkpoint; the first match counts.
        rows: The segments of each row.
        merge: How many patches make one feature.
    """

    name: str
    seed: int
    config: dict[str, Any]
    config_class: type[PretrainedConfig]
    model_class: type[PreTrainedModel]
    published: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Segment, ...], ...]
    merge: int

    @property
    def image_token(self) -> int:
        """The placeholder of one image feature."""
        return self.config.get("image_token_id") or self.config["image_token_index"]


QWEN2_VL = Family(
    name="qwen2_vl",
    seed=1,
    config={
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 248,
        "eos_token_id": 249,
        "vision_start_token_id": 250,
        "vision_end_token_id": 251,
        "vision_token_id": 252,
        "image_token_id": 253,
        "video_token_id": 254,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "model_type": "qwen2_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "mlp_ratio": 4,
            "num_heads": 2,
            "in_chans": 3,
            "hidden_size": 64,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "spatial_patch_size": 4,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vocab_size": 256,
    },
    config_class=Qwen2VLConfig,
    model_class=Qwen2VLForConditionalGeneration,
    published=(
        (r"^model\.visual\.", "visual."),
        (r"^model\.language_model\.", "model."),
    ),
    # The number of supervised tokens is far apart on purpose: a mean of per-row means, or of
    # per-microbatch means, is then far from the mean over targets.
    rows=(
        (2, (4, 4), 3, -1),
        (1, (2, 4), 5, -20, 2),
        (4, (6, 4), 4, -3),
        (3, (4, 8), 4, -7, 2, -5),
        (1, -2, 6, -6, 1),
        (2, (8, 4), 2, -1, 5),
        (2, (4, 4), 1, (6, 8), 3, -9),
        (1, (4, 6), -2, 1),
        (2, (8, 8), 3, -15, 2),
        (5, (6, 6), 4, -5),
        (1, (2, 2), 2, -4),
        (8, (4, 4), 3, -18),
    ),
    merge=4,
)

LLAVA = Family(
    name="llava",
    seed=2,
    config={
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 253,
        "model_type": "llava",
        "pad_token_id": 254,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "intermediate_size": 96,
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "torch_dtype": "float32",
            "vocab_size": 256,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 32,
            "image_size": 24,
            "intermediate_size": 128,
            "model_type": "clip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 8,
            "projection_dim": 32,
            "vocab_size": 256,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 256,
    },
    config_class=LlavaConfig,
    model_class=LlavaForConditionalGeneration,
    published=(
        (r"^model\.vision_tower\.", "vision_tower.vision_model."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.", ""),
        (r"^lm_head\.", "language_model.lm_head."),
    ),
    # CLIP takes images of one size only, and mlx-vlm's llava one image per row.
    rows=(
        (2, (3, 3), 3, -1),
        (1, (3, 3), 5, -20, 2),
        (4, (3, 3), 4, -3),
        (3, (3, 3), 4, -7, 2, -5),
        (1, -2, 3, -4),
        (2, (3, 3), 2, -1, 5),
        (12, (3, 3), 3, -9),
        (1, (3, 3), -2, 1),
        (2, (3, 3), 12, -15, 2),
        (5, (3, 3), 4, -5),
        (1, (3, 3), 2, -4),
        (8, (3, 3), 3, -18),
    ),
    merge=1,
)


@dataclass(frozen=True)
class Run:
    """How one reference run trains.

    Attributes:
        name: The stem of the run's files.
        seed: Where the random numbers of the run start.
        sizes: The number of rows in each microbatch of a step.
        optimizer: The class in torch.optim.
        settings: Everything the optimizer is told.
        max_norm: What the gradient's global norm is clipped to, if it is.
    """

    name: str
    seed: int
    sizes: tuple[int, ...]
    optimizer: str
    settings: dict[str, Any]
    max_norm: float | None


RUNS = (
    Run(
        name="plain",
        seed=11,
        sizes=(2,),
        optimizer="AdamW",
        settings={"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        max_norm=None,
    ),
    Run(
        name="accumulated",
        seed=12,
        sizes=(2, 1),
        optimizer="Adam",
        settings={"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
        # Most steps are above it and some are not, so that both branches are seen.
        max_norm=2.5,
    ),
)


def published_name(family: Family, name: str) -> str:
    """Return a parameter's name in the family's published checkpoints.

    Args:
        family: The model family.
        name: The parameter's name in transformers 5.

    Returns:
        The name before transformers 5 moved the modules around.
    """
    for pattern, replacement in family.published:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a parameter large enough for tokens and images to be told apart.

    Args:
        name: The parameter's name, by which norms and biases are known.
        shape: Its shape.
        generator: The source of random numbers.

    Returns:
        A float32 tensor.
    """
    noise = torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return 0.1 * noise
    if "norm" in name or "ln_q" in name:
        return torch.ones(shape)
    if re.search("embed_tokens|class_embedding|position_embedding", name):
        return 0.5 * noise
    return 0.15 * noise


def make_model(family: Family, folder: Path) -> PreTrainedModel:
    """Write the family's checkpoint and load it the way any published one is loaded.

    Args:
        family: The model family.
        folder: Where the checkpoint goes.

    Returns:
        The model that transformers reads from the folder, in float32.

    Raises:
        RuntimeError: If transformers did not find exactly its parameters in the checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.config, indent=2) + "\n")
    config = family.config_class.from_pretrained(folder)
    generator = torch.Generator().manual_seed(family.seed)
    shapes = {name: parameter.shape for name, parameter in family.model_class(config).named_parameters()}
    weights = {name: random_weight(name, shape, generator) for name, shape in sorted(shapes.items())}
    save_file(
        {published_name(family, name): weight for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )

    # Training this instance instead of the one filled above proves the layout: a key that
    # transformers does not know from published checkpoints would show up here.
    model, loading = family.model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {kind: found for kind, found in loading.items() if found}
    if problems:
        msg = f"{family.name}: the checkpoint does not fit: {problems}"
        raise RuntimeError(msg)
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, weights[name]):
            msg = f"{family.name}: {name} was loaded with another value"
            raise RuntimeError(msg)
    return model.eval()


def make_row(family: Family, segments: tuple[Segment, ...], generator: torch.Generator) -> Row:
    """Draw one row of data.

    Args:
        family: The model family.
        segments: What the row is made of.
        generator: The source of random numbers.

    Returns:
        The row's arrays, as rows.safetensors holds them.
    """
    ids: list[int] = []
    supervised: list[bool] = []
    grids: list[tuple[int, int]] = []
    for segment in segments:
        if isinstance(segment, tuple):
            placeholders = [family.image_token] * (math.prod(segment) // family.merge)
            if family is QWEN2_VL:
                start, end = (family.config[f"vision_{side}_token_id"] for side in ("start", "end"))
                placeholders = [start, *placeholders, end]
            ids += placeholders
            supervised += [False] * len(placeholders)
            grids.append(segment)
        else:
            length = abs(segment)
            ids += torch.randint(1, TEXT_TOKENS, (length,), generator=generator).tolist()
            supervised += [segment < 0] * length
    row = {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "supervised": torch.tensor(supervised),
    }
    if not grids:
        return row
    vision = family.config["vision_config"]
    if family is QWEN2_VL:
        # A patch holds the same place in `temporal_patch_size` frames.
        features = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
        patches = sum(math.prod(grid) for grid in grids)
        row["pixel_values"] = torch.randn(patches, features, generator=generator)
        row["image_grid_thw"] = torch.tensor([(1, *grid) for grid in grids], dtype=torch.int32)
    else:
        size = vision["image_size"]
        row["pixel_values"] = torch.randn(len(grids), 3, size, size, generator=generator)
    return row


def collate(family: Family, rows: list[Row]) -> tuple[dict[str, Tensor], Tensor]:
    """Pad rows to the right and join them to one batch.

    Args:
        family: The model family.
        rows: The rows of the batch.

    Returns:
        The model's arguments, and where the targets are.
    """
    pad = nn.utils.rnn.pad_sequence
    ids = pad([row["input_ids"].long() for row in rows], True, PAD_TOKEN)
    inputs = {
        "input_ids": ids,
        "attention_mask": pad([torch.ones_like(row["input_ids"].long()) for row in rows], True, 0),
    }
    for name in ("pixel_values", "image_grid_thw"):
        parts = [row[name] for row in rows if name in row]
        if parts:
            inputs[name] = torch.cat(parts)
    if "image_grid_thw" in inputs:
        inputs["image_grid_thw"] = inputs["image_grid_thw"].long()
        # transformers 5 finds the images by these types, no longer by the vision start token, and
        # refuses to build the three position rows without them.
        inputs["mm_token_type_ids"] = (ids == family.image_token).int()
    return inputs, pad([row["supervised"] for row in rows], True, False)


def summed_nll(model: nn.Module, inputs: dict[str, Tensor], supervised: Tensor) -> Tensor:
    """Return the negative log likelihood of all targets of a batch.

    Args:
        model: The model.
        inputs: Its arguments.
        supervised: Where the targets are.

    Returns:
        A scalar, the sum over the targets.
    """
    logits = model(**inputs, use_cache=False).logits
    targets = supervised[:, 1:]
    return nn.functional.cross_entropy(logits[:, :-1][targets], inputs["input_ids"][:, 1:][targets], reduction="sum")


def mrope_positions(row: Row, image_token: int) -> Tensor:
    """Compute a Qwen2-VL row's positions straight from their definition.

    Text moves all three positions by one per token. The features of an image share their temporal
    position and take their height and width from the merged grid; the text after it continues
    behind the largest of them.

    Args:
        row: The row.
        image_token: The placeholder of one image feature.

    Returns:
        The temporal, height and width positions, [3, tokens].
    """
    positions: list[tuple[int, int, int]] = []
    grids = iter(row.get("image_grid_thw", torch.empty(0, 3)).tolist())
    ids = row["input_ids"].tolist()
    start = 0
    while len(positions) < len(ids):
        if ids[len(positions)] == image_token:
            _, height, width = next(grids)
            positions += [(start, start + y, start + x) for y in range(height // 2) for x in range(width // 2)]
            start += max(height, width) // 2
        else:
            positions.append((start, start, start))
            start += 1
    return torch.tensor(positions).T


@torch.no_grad()
def check(family: Family, model: PreTrainedModel, rows: list[Row]) -> None:
    """Make sure that padding, batching and positions change nothing.

    Args:
        family: The model family.
        model: The model, without adapters.
        rows: All rows.

    Raises:
        RuntimeError: If a padded batch is not the sum of its rows, if the positions are not the
            true ones, or if the model does not look at the images.
    """
    alone = [summed_nll(model, *collate(family, [row])).item() for row in rows]
    for first, row in enumerate(rows):
        second = (first + 1) % len(rows)
        batch = [row, rows[second]]
        inputs, supervised = collate(family, batch)
        targets = supervised.sum().item()
        together = summed_nll(model, inputs, supervised).item()
        if abs(together - alone[first] - alone[second]) / targets > 1e-5:
            msg = f"{family.name}: padding changes rows {first} and {second}"
            raise RuntimeError(msg)
        if "mm_token_type_ids" in inputs:
            names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
            positions, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
            for index, member in enumerate(batch):
                expected = mrope_positions(member, family.image_token)
                if not torch.equal(positions[:, index, : expected.shape[1]], expected):
                    msg = f"{family.name}: wrong positions of rows {first}, {second}"
                    raise RuntimeError(msg)
        if "pixel_values" in row:
            dark = row | {"pixel_values": torch.zeros_like(row["pixel_values"])}
            difference = summed_nll(model, *collate(family, [dark])).item() - alone[first]
            if abs(difference) / row["supervised"].sum() < 1e-2:
                msg = f"{family.name}: the image of row {first} does not matter"
                raise RuntimeError(msg)


def add_lora(model: PreTrainedModel, seed: int) -> PeftModel:
    """Put adapters on all projections of the language model.

    Args:
        model: The model; PEFT changes it in place.
        seed: Where the adapters' random numbers start.

    Returns:
        The model with its adapters.
    """
    lora = get_peft_model(
        model,
        LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0.0,
            bias="none",
            # The vision tower has projections of the same names.
            target_modules=rf"model\.language_model\..*\.({'|'.join(PROJECTIONS)})",
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    # PEFT's zero B would leave A without a gradient in the first step.
    scale = {"lora_A": 0.125, "lora_B": 0.05}
    for name, parameter in adapters(lora):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(scale[name.rpartition(".")[2]] * noise)
    return lora


def adapters(lora: PeftModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Go through the adapters in the order of their names.

    Args:
        lora: The model with its adapters.

    Yields:
        The name in mlx-vlm, ending with `lora_A` or `lora_B`, and the parameter.
    """
    prefix, suffix = "base_model.model.model.language_model.", ".default.weight"
    for name, parameter in sorted(lora.named_parameters()):
        if parameter.requires_grad:
            path = name.removeprefix(prefix).removesuffix(suffix)
            yield f"language_model.model.{path}", parameter


def schedule(run: Run, rows: int) -> list[list[list[int]]]:
    """Deal the rows out to steps and microbatches, in a new order each epoch.

    Args:
        run: The run.
        rows: The number of rows.

    Returns:
        For each step, for each microbatch, the rows' indices.
    """
    generator = torch.Generator().manual_seed(run.seed)
    needed = STEPS * sum(run.sizes)
    order: list[int] = []
    while len(order) < needed:
        order += torch.randperm(rows, generator=generator).tolist()
    dealt = iter(order)
    return [[[next(dealt) for _ in range(size)] for size in run.sizes] for _ in range(STEPS)]


def train(family: Family, run: Run, lora: PeftModel, rows: list[Row], folder: Path) -> None:
    """Do one run and write its files.

    Args:
        family: The model family.
        run: The run.
        lora: The model with its initial adapters.
        rows: All rows.
        folder: Where the files go.
    """
    named = dict(adapters(lora))
    parameters = list(named.values())
    tensors = {f"initial.{name}": parameter.detach().clone() for name, parameter in named.items()}
    optimizer = getattr(torch.optim, run.optimizer)(parameters, **run.settings)
    microbatches = schedule(run, len(rows))
    losses: list[float] = []
    norms: list[float] = []
    for step in microbatches:
        optimizer.zero_grad()
        total, targets = 0.0, 0
        for indices in step:
            inputs, supervised = collate(family, [rows[index] for index in indices])
            nll = summed_nll(lora, inputs, supervised)
            nll.backward()
            total += nll.item()
            targets += int(supervised.sum())
        # Only here is the number of targets of the whole step known.
        for parameter in parameters:
            parameter.grad /= targets
        limit = math.inf if run.max_norm is None else run.max_norm
        norms.append(nn.utils.clip_grad_norm_(parameters, limit).item())
        losses.append(total / targets)
        optimizer.step()

    tensors |= {f"final.{name}": parameter.detach() for name, parameter in named.items()}
    save_file(tensors, folder / f"{run.name}.safetensors")
    record = {
        "family": family.name,
        "rank": RANK,
        "alpha": ALPHA,
        "dropout": 0.0,
        "target_modules": PROJECTIONS,
        "optimizer": run.optimizer,
        **run.settings,
        "max_norm": run.max_norm,
        "microbatches": microbatches,
        "losses": losses,
        "grad_norms": norms,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }
    # One line per key: json's own indentation would put every number on its own line.
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    (folder / f"{run.name}.json").write_text(f"{{\n{lines}\n}}\n")


def main() -> None:
    """Write all golden files next to this script."""
    # The order of a parallel sum would depend on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for family in (QWEN2_VL, LLAVA):
        folder = GOLDEN / family.name
        model = make_model(family, folder / "model")
        generator = torch.Generator().manual_seed(family.seed + 100)
        rows = [make_row(family, segments, generator) for segments in family.rows]
        tensors: Row = {}
        for index, row in enumerate(rows):
            tensors |= {f"{index}.{name}": value for name, value in row.items()}
        save_file(tensors, folder / "rows.safetensors")
        check(family, model, rows)
        for run in RUNS:
            lora = add_lora(model, run.seed)
            train(family, run, lora, rows, folder)
            # Takes the adapters off again, so that the next run starts from the same model.
            model = lora.unload()


if __name__ == "__main__":
    main()
