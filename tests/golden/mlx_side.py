"""The MLX side of a comparison: the checkpoint, the rows and the runs, all through vlora itself."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from tests.arrays import load_arrays
from tests.checkpoints import build_checkpoint
from vlora import Example, TrainState, collate, format_sample, init_state, make_optimizer, make_train_step, models
from vlora.adapters.targets import resolve_target_modules
from vlora.models.forward.overrides import override_call
from vlora.recipe.schema import DataSection, LoraSection, ModelSection, OptimSection

from .cases import ALPHA, BITS, CASES, GROUP_SIZE, RANK, ROWS, RUNS, Array, Case, Run, digest, initial_adapter, shake


def write_folder(family: str, folder: Path) -> Path:
    """Write a family's tiny checkpoint under published names, no parameter of it like another.

    Args:
        family: A key of `CASES`.
        folder: Where to write.

    Returns:
        `folder`, which transformers and mlx-vlm read alike.
    """
    build_checkpoint(family, folder)
    file = folder / "model.safetensors"
    weights = {name: shake(name, np.array(value)) for name, value in load_arrays(file).items()}
    published = publish(CASES[family], weights)
    mx.save_safetensors(str(file), {name: mx.array(value) for name, value in published.items()}, {"format": "pt"})
    return folder


def publish(case: Case, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Give parameters the names and layouts of the published checkpoint."""
    published: dict[str, Array] = {}
    for name, value in weights.items():
        for pattern, replacement in case.renames:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        if case.convolutions and re.search(case.convolutions, name) and value.ndim > 2:
            value = np.moveaxis(value, -1, 1)  # noqa: PLW2901
        published[name] = value
    return fuse_experts(published) if case.fused_experts else published


def fuse_experts(weights: dict[str, Array]) -> dict[str, Array]:
    """Write the experts' gate and up projections as one array, inputs first, as Qwen3-VL's mixtures are published."""
    fused: dict[str, Array] = {}
    for name, value in weights.items():
        layer, separator, kind = name.partition(".switch_mlp.")
        if not separator:
            fused[name] = value
        elif kind == "down_proj.weight":
            fused[f"{layer}.experts.down_proj"] = value.swapaxes(1, 2)
        elif kind == "gate_proj.weight":
            both = np.concatenate([value, weights[f"{layer}.switch_mlp.up_proj.weight"]], axis=1)
            fused[f"{layer}.experts.gate_up_proj"] = both.swapaxes(1, 2)
    return fused


@dataclass(frozen=True)
class RowDataset:
    """A family's rows as vlora encodes them.

    Attributes:
        examples: One per row of the case.
        texts: What the processor read.
    """

    examples: tuple[Example, ...]
    texts: tuple[str, ...]


def encode_rows(family: str, folder: Path) -> RowDataset:
    """Encode a case's rows with the checkpoint's own processor."""
    section = ModelSection(path=str(folder))
    files = models.find_model(section)
    processor = models.load_processor(files, section)
    # As the published templates write the rows: two of them end no last answer.
    data = DataSection(path="rows", train_on_completions=True, learn_end=False)
    encoder = models.make_encoder(processor, files.config, files.family, data)
    samples = [format_sample(ROWS[name].as_dataset_row(), name) for name in CASES[family].rows]
    return RowDataset(tuple(encoder(sample) for sample in samples), tuple(encoder.render(sample) for sample in samples))


def embed_rows(folder: Path, rows: RowDataset, names: Sequence[str], *, is_quantized: bool) -> dict[str, Array]:
    """Embed a case's rows by name: f[1, T - 1, D], without the last token, which predicts nothing."""
    backbone, _ = load(folder, is_quantized=is_quantized)
    embedded = {}
    for name, example in zip(names, rows.examples, strict=True):
        features, _ = backbone.embed(collate([example], 1))
        embedded[name] = np.array(features["inputs_embeds"][:, : len(example.tokens) - 1])
    return embedded


def load(folder: Path, *, is_quantized: bool) -> tuple[models.MlxVlmBackbone, dict[str, Any]]:
    """Load a checkpoint, and quantize its language model if that is asked."""
    bits = BITS if is_quantized else None
    section = ModelSection(path=str(folder), quantize_bits=bits, quantize_group_size=GROUP_SIZE)
    return models.load_backbone(models.find_model(section), section)


def open_backbone(folder: Path, case: Case, run: Run) -> models.MlxVlmBackbone:
    """Load the model and make trainable what a run trains."""
    backbone, quantized = load(folder, is_quantized=run.is_quantized)
    if run.trains == "everything":
        models.unfreeze_vision(backbone)
        models.unfreeze_language(backbone)
        for name, module in backbone.module.named_modules():
            if case.is_untrained(name):
                module.freeze()
        return backbone
    lora = LoraSection(rank=RANK, alpha=ALPHA, targets=tuple(adapted_layers(backbone, case, run)))
    models.add_lora(backbone, lora, seed=0, quantized=quantized)
    return backbone


def adapted_layers(backbone: models.MlxVlmBackbone, case: Case, run: Run) -> list[str]:
    """Name the linear layers that get an adapter, of those that are read.

    Experts are left out: PEFT would give an expert's gate and up projection, which transformers keeps in one array,
    one common factor A.
    """
    names = resolve_target_modules(backbone.module, backbone.layout, LoraSection())
    modules = dict(backbone.module.named_modules())
    names = [name for name in names if isinstance(modules[name], (nn.Linear, nn.QuantizedLinear))]
    names = [name for name in names if not case.is_untrained(name)]
    if run.trains == "qv":
        return [name for name in names if name.rpartition(".")[2] in ("q_proj", "v_proj")]
    return names


def initial_parameters(state: TrainState) -> dict[str, Array]:
    """List the trained parameters' start: the checkpoint's, or an adapter's drawn by name."""
    return {
        name: initial_adapter(name, value.shape) if name.endswith(("lora_a", "lora_b")) else np.array(value)
        for name, value in state.params.items()
    }


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        losses: Mean over the supervised tokens of each step.
        norms: Of each step's mean gradient, before clipping.
        initial: The trained parameters before.
        final: And after.
    """

    losses: list[float]
    norms: list[float]
    initial: dict[str, Array]
    final: dict[str, Array]


def train(folder: Path, case: Case, run: str, examples: Sequence[Example], *, grad_checkpoint: bool = False) -> Result:
    """Do a run.

    Args:
        folder: As `write_folder` leaves it.
        case: Its family's.
        run: A key of `RUNS`.
        examples: The case's rows.
        grad_checkpoint: Whether activations are recomputed.
    """
    how = RUNS[run]
    backbone = open_backbone(folder, case, how)
    optimizer = make_optimizer(OptimSection(name=how.optimizer, **how.settings))  # type: ignore[arg-type]
    state = init_state(backbone, optimizer)
    initial = initial_parameters(state)
    state = state._replace(params={name: mx.array(value) for name, value in initial.items()})
    step = make_train_step(backbone, optimizer, max_grad_norm=how.max_norm, grad_checkpoint=grad_checkpoint)
    outputs: list[Any] = []
    with keep_features(backbone.module.vision_tower, folder) if case.has_frozen_tower else nullcontext():
        for microbatches in how.schedule():
            batches = [collate([examples[row] for row in rows], how.batch_size) for rows in microbatches]
            state, output = step(state, batches, how.settings["learning_rate"])
            mx.eval(state, output)
            outputs.append(output)
    return Result(
        losses=[float(output.nll_sum) / float(output.n_supervised) for output in outputs],
        norms=[float(output.grad_norm) for output in outputs],
        initial=initial,
        final={name: np.array(value) for name, value in state.params.items()},
    )


FEATURES: dict[tuple[Path, str], mx.array] = {}
"""What frozen towers make of images, by the checkpoint's folder and the image."""


def keep_features(tower: nn.Module, folder: Path) -> AbstractContextManager[None]:
    """Let a frozen tower look at images, f[N, 3, H, W], that it has not seen yet, and at no others."""
    look = type(tower).__call__

    def look_once(image: mx.array, **options: Any) -> mx.array:
        key = (folder, digest(np.array(image)))
        if key not in FEATURES:
            FEATURES[key] = look(tower, image[None], **options)
            mx.eval(FEATURES[key])
        return FEATURES[key]

    return override_call(
        tower, lambda pixels, **options: mx.concatenate([look_once(image, **options) for image in pixels])
    )


def frozen_weights(folder: Path, *, is_quantized: bool) -> dict[str, Array]:
    """List all parameters of a checkpoint as the model computes with them, by mlx-vlm's names."""
    backbone, _ = load(folder, is_quantized=is_quantized)
    weights: dict[str, Array] = {}
    for name, module in backbone.module.named_modules():
        prefix = f"{name}." if name else ""
        own = dict(tree_flatten({key: value for key, value in module.items() if isinstance(value, mx.array)}))
        if "scales" in own:
            scale, bias = own.pop("scales"), own.pop("biases")
            own["weight"] = mx.dequantize(own["weight"], scale, bias, module.group_size, module.bits)
        parameters = {key.partition(".")[0] for key in module.parameters()}
        weights |= {f"{prefix}{key}": np.array(value) for key, value in own.items() if key in parameters}
    return weights
