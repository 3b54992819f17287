"""Second stage of the golden files: what torch, transformers and PEFT compute. Needs neither MLX nor vlora.

It is run by hand, and only when the reference has to change, after `tests.golden.prepare`. Its environment is the
`reference` dependency group of pyproject.toml, which the library itself never needs:

    python -m venv --upgrade-deps .venv-reference
    .venv-reference/bin/python -m pip install --group reference  # pip 25.1 or newer
    python -m tests.golden.prepare --work /tmp/golden
    .venv-reference/bin/python -m tests.golden.generate --work /tmp/golden

For each family it opens the same checkpoint folder as vlora with transformers' Auto classes, and insists that every
parameter was in it. The processor encodes the same conversations: text, token ids and pixel values have to be vlora's.
Then it trains, row by row and without padding, so that nothing of its own batching can go wrong; the gradient of a
step is that of the summed loss of all rows over the number of their targets. Here it writes, per family:

    <family>.json           checksums of checkpoint and rows; per run, the losses and gradient norms
    <family>.safetensors    `<run>.<parameter>`: the trained array, or its change as `cases.fingerprint` condenses it
"""

import contextlib
import importlib.metadata
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing here may come from the network, and no number may depend on what is cached.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .cases import ALPHA, CASES, IMAGE, RANK, ROWS, RUNS, Array, Case, Run, digest, fingerprint, initial_adapter
from .stages import make_parser

GOLDEN = Path(__file__).parent


class MismatchError(Exception):
    """The reference and vlora do not start from the same thing."""


# ---------------------------------------------------------------------------------------------
# Which parameter of transformers is which of mlx-vlm


@dataclass(frozen=True)
class Place:
    """Where a parameter of mlx-vlm lies in transformers' model.

    Attributes:
        name: The parameter of transformers that holds it.
        part: Which of how many equal pieces of it, along which axis; None if all of it.
        axes: The order of its axes in which it is mlx-vlm's array.
        offset: What mlx-vlm adds to it on loading.
    """

    name: str
    part: tuple[int, int, int] | None
    axes: tuple[int, ...]
    offset: float

    def view(self, tensor: Tensor) -> Tensor:
        """Look at a tensor shaped as the whole parameter in the way mlx-vlm does."""
        if self.part is not None:
            index, count, axis = self.part
            tensor = tensor.chunk(count, axis)[index]
        return tensor.permute(self.axes)


def find_places(model: nn.Module, weights: Mapping[str, Array]) -> dict[str, Place]:
    """Find every parameter of mlx-vlm in transformers' model by its values, which no other parameter has.

    Raises:
        MismatchError: One is not there: the checkpoint was read differently.
    """
    pool: dict[tuple[float, float, float], list[tuple[str, tuple[int, int, int] | None, float, Array]]] = {}
    sizes = {value.size for value in weights.values()}
    for name, parameter in itertools.chain(model.named_parameters(), model.named_buffers()):
        whole = parameter.detach().numpy()
        pieces: list[tuple[tuple[int, int, int] | None, Array]] = [(None, whole)]
        for axis, count in itertools.product(range(whole.ndim), (2, 3)):
            if whole.shape[axis] % count == 0 and whole.ndim > 1:
                pieces += [((i, count, axis), p) for i, p in enumerate(np.split(whole, count, axis))]
        pieces = [(part, piece) for part, piece in pieces if piece.size in sizes]
        for (part, piece), offset in itertools.product(pieces, (0.0, 1.0)):
            pool.setdefault(summary(piece + np.float32(offset)), []).append((name, part, offset, piece))
    places, lost = {}, []
    for name, value in weights.items():
        found = [
            Place(candidate, part, axes, offset)
            for candidate, part, offset, piece in pool.get(summary(value), ())
            for axes in itertools.permutations(range(value.ndim))
            if is_turned(piece, axes, value.shape) and np.array_equal(piece.transpose(axes) + np.float32(offset), value)
        ]
        if found:
            # The whole of something, its axes in their own order, before anything less likely.
            places[name] = min(found, key=lambda place: (place.part is not None, place.axes))
        else:
            lost.append(name)
    if lost:
        msg = f"parameters of mlx-vlm that transformers' model does not hold: {lost}"
        raise MismatchError(msg)
    return places


def is_turned(values: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array with its axes in another order has a shape."""
    return values.ndim == len(shape) and tuple(values.shape[axis] for axis in axes) == shape


def summary(values: Array) -> tuple[float, float, float]:
    """Condense an array so that equal ones are found, whatever the order of their axes."""
    return float(values.size), float(values.min()), float(values.max())


# ---------------------------------------------------------------------------------------------
# Rows


@dataclass(frozen=True)
class TorchRow:
    """A row as transformers' processor encodes it.

    Attributes:
        inputs: What the model is called with.
        supervised: bool[T].
    """

    inputs: dict[str, Tensor]
    supervised: Tensor


def open_processor(folder: Path, case: Case) -> Any:
    """Load the processor, its images resized by Pillow: torchvision's resizing rounds otherwise."""
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if not case.reads_videos:
        processor = AutoProcessor.from_pretrained(folder)
        processor.image_processor = images
        return processor
    kind: Any = getattr(transformers, json.loads((folder / "processor_config.json").read_text())["processor_class"])
    # Its parts for videos need torchvision, and may not be left out.
    kind = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda _, __, part: type(part)})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = {"tokenizer": tokenizer, "image_processor": images, "chat_template": tokenizer.chat_template}
    return kind(**{**dict.fromkeys(kind.get_attributes()), **parts})


def read_rows(family: str, folder: Path, *, is_quantized: bool) -> list[TorchRow]:
    """Read the rows as vlora embedded them, for a language model alone."""
    arrays = load_file(folder / "rows.safetensors")
    rows = []
    for name in CASES[family].rows:
        embeds = arrays[f"{name}.quantized_embeds" if is_quantized else f"{name}.embeds"]
        tokens, supervised = arrays[f"{name}.tokens"], arrays[f"{name}.supervised"]
        inputs = {"input_ids": torch.from_numpy(tokens)[None], "inputs_embeds": torch.from_numpy(embeds)}
        rows.append(TorchRow(inputs, torch.from_numpy(supervised.astype(bool))))
    return rows


def encode_rows(family: str, folder: Path, processor: Any) -> tuple[list[TorchRow], float]:
    """Encode the rows with transformers' processor, and compare with what vlora's encoder made of them.

    Returns:
        The rows, with vlora's very pixel values, and by how much the processor's differed.

    Raises:
        MismatchError: Text, tokens, or an input differ.
    """
    case = CASES[family]
    arrays = load_file(folder / "rows.safetensors")
    rows, largest = [], 0.0
    for name, text in zip(case.rows, json.loads((folder / "rows.json").read_text()), strict=True):
        tokens, supervised = arrays[f"{name}.tokens"], arrays[f"{name}.supervised"]
        encoded = dict(encode_row(family, name, text, processor))
        ids = encoded["input_ids"][0].numpy()
        if not np.array_equal(ids, tokens):
            msg = f"{family} {name}: transformers' processor gives {ids.tolist()}, vlora {tokens.tolist()}"
            raise MismatchError(msg)
        prefix = f"{name}.inputs."
        inputs = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        if case.patch_size is not None and "pixel_values" in encoded:
            inputs = cut_images(inputs, encoded["pixel_values"], case.patch_size)
        for key, value in inputs.items():
            largest = max(largest, adopt(f"{family} {name}: {key}", encoded, key, value, case))
        rows.append(TorchRow(encoded, torch.from_numpy(supervised.astype(bool))))
    return rows, largest


def cut_images(inputs: Mapping[str, Array], like: Tensor, size: int) -> dict[str, Array]:
    """Cut vlora's images, f[3, H, W] each, into patches padded with zeros to the number that transformers has."""
    images: list[Array] = []
    for key, value in sorted(inputs.items()):
        if key.partition(".")[0] == "pixel_values":
            images += [value] if value.ndim == 3 else list(value)
    patches = np.zeros(like.shape, dtype=np.float32)
    for image, own in zip(images, patches, strict=True):
        channels, height, width = image.shape
        cut = image.reshape(channels, height // size, size, width // size, size).transpose(1, 3, 2, 4, 0)
        own[: height * width // size**2] = cut.reshape(-1, size * size * channels)
    others = {key: value for key, value in inputs.items() if key.partition(".")[0] != "pixel_values"}
    return {**others, "pixel_values": patches}


def encode_row(family: str, name: str, text: str, processor: Any) -> Mapping[str, Tensor]:
    """Encode one row with transformers' processor, from the text that its own template writes.

    Raises:
        MismatchError: vlora's text is another.
    """
    case, row = CASES[family], ROWS[name]
    images = row.images()
    if case.has_suffix:
        (_, question), (_, answer) = row.turns
        prompt = IMAGE * len(images) + question.replace(IMAGE, "")
        encoded = processor(text=[prompt], images=[images], suffix=[answer], return_tensors="pt")
        return {key: value for key, value in encoded.items() if key != "labels"}
    bos = processor.tokenizer.bos_token or ""
    own = processor.apply_chat_template(row.as_messages(string_answers=case.string_answers), tokenize=False)
    # Whoever adds it, the tokenizer or the template: vlora has written the BOS.
    body = text if bos and own.startswith(bos) else text.removeprefix(bos)
    if case.own_template is None and own != body:
        msg = f"{family} {name}: transformers writes {own!r}, vlora {text!r}"
        raise MismatchError(msg)
    return call_processor(processor, body, images if case.flat_images else [images], bos)


def call_processor(processor: Any, text: str, images: list[Any], bos: str) -> Mapping[str, Tensor]:
    """Encode a rendered conversation as `apply_chat_template` would."""
    options = {"return_tensors": "pt", "add_special_tokens": not (bos and text.startswith(bos))}
    if any(images):
        return processor(text=[text], images=images, **options)
    return processor(text=[text], **options)


def adopt(where: str, encoded: dict[str, Tensor], key: str, value: Array, case: Case) -> float:
    """Compare one of vlora's inputs with the processor's, and take vlora's pixel values over.

    Returns:
        By how much pixel values differ.

    Raises:
        MismatchError: They are not the same.
    """
    if key not in encoded:
        return 0.0
    own = encoded[key]
    if own.numel() != value.size:
        msg = f"{where}: transformers' processor gives {tuple(own.shape)}, vlora {value.shape}"
        raise MismatchError(msg)
    given = torch.from_numpy(value).reshape(own.shape).to(own.dtype)
    difference = float((given.double() - own.double()).abs().max())
    if difference > (case.pixels if own.is_floating_point() else 0):
        msg = f"{where}: differs by {difference:.3g} from transformers' processor"
        raise MismatchError(msg)
    encoded[key] = given
    return difference


# ---------------------------------------------------------------------------------------------
# Training


def load_model(folder: Path, case: Case) -> nn.Module:
    """Load the checkpoint the way any published one is loaded, in float32.

    Raises:
        MismatchError: If transformers did not find exactly its parameters in it.
    """
    kind = AutoModelForCausalLM if case.language else AutoModelForImageTextToText
    model, loading = kind.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    problems = {kind: found for kind, found in loading.items() if found}
    if problems:
        msg = f"the checkpoint does not fit: {problems}"
        raise MismatchError(msg)
    return model.eval()


def summed_nll(model: nn.Module, row: TorchRow, case: Case) -> Tensor:
    """Sum the negative log likelihood of a row's targets."""
    inputs = {
        key: value for key, value in row.inputs.items() if key != "input_ids" or "inputs_embeds" not in row.inputs
    }
    logits = model(**inputs).logits[0]
    if case.logit_scale is not None:
        logits = logits * case.logit_scale
    targets = row.supervised[1:]
    logs = logits[: len(targets)][targets].float().log_softmax(-1)
    return -logs.gather(-1, row.inputs["input_ids"][0, 1:][targets, None].long()).sum()


@dataclass(frozen=True)
class Trained:
    """What a run trains, by mlx-vlm's names.

    Attributes:
        model: With adapters, if it has any.
        parameters: All that the optimizer sees.
        views: Each of mlx-vlm's parameters as a view of a tensor shaped as one of `parameters`, and its place in them.
    """

    model: nn.Module
    parameters: list[nn.Parameter]
    views: dict[str, tuple[nn.Parameter, Any]]

    def values(self) -> dict[str, Array]:
        """Read all parameters as mlx-vlm has them."""
        return {name: view(parameter.detach()).numpy().copy() for name, (parameter, view) in self.views.items()}


def make_trainable(
    case: Case, run: Run, model: nn.Module, shapes: Mapping[str, list[int]], places: Mapping[str, Place]
) -> Trained:
    """Freeze what a run does not train, and put adapters where it has some.

    Raises:
        MismatchError: A layer that is adapted in mlx-vlm is none in transformers.
    """
    if run.trains == "everything":
        return train_everything(case, model, shapes, places)
    modules = {}
    for name in shapes:
        layer = name.rpartition(".")[0]
        place = places[f"{layer}.weight"]
        if place.part is not None or place.axes != (0, 1) or not place.name.endswith(".weight"):
            msg = f"{layer} is {place} in transformers and cannot be adapted alike"
            raise MismatchError(msg)
        modules[layer] = place.name.removesuffix(".weight")
    # By this type PEFT 0.21 takes the projections of dense layers and shared experts for those of fused experts.
    model.config.model_type = ""
    lora = get_peft_model(
        model,
        LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=sorted(modules.values())),
    )
    known = dict(lora.named_parameters())
    views = {}
    for name, shape in shapes.items():
        layer, _, factor = name.rpartition(".")
        kind = {"lora_a": "lora_A", "lora_b": "lora_B"}[factor]
        parameter = known.pop(f"base_model.model.{modules[layer]}.{kind}.default.weight")
        parameter.data.copy_(torch.from_numpy(initial_adapter(name, tuple(shape))).T)
        views[name] = (parameter, torch.t)
    extra = [name for name, parameter in known.items() if parameter.requires_grad]
    if extra:
        msg = f"PEFT trains more than vlora: {extra}"
        raise MismatchError(msg)
    return Trained(lora, [parameter for parameter, _ in views.values()], views)


def train_everything(
    case: Case, model: nn.Module, shapes: Mapping[str, list[int]], places: Mapping[str, Place]
) -> Trained:
    """Train every parameter that mlx-vlm trains.

    Raises:
        MismatchError: Two of mlx-vlm's are one in transformers (tied), or transformers has more.
    """
    known = dict(model.named_parameters())
    for name in filter(case.is_untrained, places):
        known.pop(places[name].name).requires_grad_(False)
    views = {}
    held: dict[str, int] = {}
    for name in shapes:
        place = places[name]
        parameter = known[place.name]
        views[name] = (parameter, lambda tensor, place=place: place.view(tensor) + place.offset)
        held[place.name] = held.get(place.name, 0) + math.prod(shapes[name])
    for name, parameter in known.items():
        parameter.requires_grad_(name in held)
    wrong = [name for name, parameter in known.items() if held.get(name, 0) != parameter.numel()]
    if wrong:
        msg = f"parameters of transformers that mlx-vlm does not hold exactly once: {wrong}"
        raise MismatchError(msg)
    return Trained(model, [known[name] for name in held], views)


def make_optimizer(run: Run, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make torch's optimizer of a recipe's name."""
    settings = dict(run.settings)
    rate, betas = settings.pop("learning_rate"), settings.pop("betas")
    if run.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=betas[0], **settings)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[run.optimizer]
    return kind(parameters, lr=rate, betas=betas, **settings)


def train(case: Case, run: Run, trained: Trained, rows: list[TorchRow]) -> tuple[list[float], list[float]]:
    """Do a run.

    Returns:
        For each step, the mean loss and the gradient's norm before clipping.
    """
    optimizer = make_optimizer(run, trained.parameters)
    losses, norms = [], []
    for microbatches in run.schedule():
        optimizer.zero_grad()
        total, targets = 0.0, 0
        for row in (rows[index] for microbatch in microbatches for index in microbatch):
            nll = summed_nll(trained.model, row, case)
            nll.backward()
            total += nll.item()
            targets += int(row.supervised[1:].sum())
        for parameter in trained.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            # Only here is the number of targets of the whole step known.
            parameter.grad /= targets
        limit = math.inf if run.max_norm is None else run.max_norm
        norms.append(nn.utils.clip_grad_norm_(trained.parameters, limit).item())
        losses.append(total / targets)
        optimizer.step()
    return losses, norms


def keep_features(tower: nn.Module, features: dict[str, Tensor]) -> None:
    """Let a frozen tower look at images, f[N, 3, H, W], that it has not seen yet, and no others.

    Args:
        tower: What gives features as `last_hidden_state`.
        features: What was seen before, by the image; all further images are added.
    """
    look = tower.forward

    @torch.no_grad()
    def look_once(pixel_values: Tensor, **options: Any) -> Any:
        for image in pixel_values:
            if (key := digest(image.numpy())) not in features:
                seen = look(pixel_values=image[None], **options)
                features[key] = seen.last_hidden_state
        # A copy: the model scales it in place.
        states = torch.cat([features[digest(image.numpy())] for image in pixel_values])
        return BaseModelOutputWithPooling(last_hidden_state=states)

    tower.forward = look_once


@contextlib.contextmanager
def reference_folder(folder: Path, case: Case) -> Iterator[Path]:
    """Give a checkpoint whose config.json says what transformers wants to read."""
    if not case.reference_config and not case.language:
        yield folder
        return
    other = folder.with_name("reference")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    if case.language:
        config = config.get("language_config") or config["text_config"]
        config["model_type"] = case.language
        file = other / "model.safetensors"
        inside = re.compile(r"^language(_model)?\.")
        weights = {inside.sub("", name): value for name, value in load_file(file).items() if inside.match(name)}
        save_file(weights, file, {"format": "pt"})
    (other / "config.json").write_text(json.dumps(config | dict(case.reference_config)))
    yield other


def generate(family: str, folder: Path) -> None:
    """Write the golden files of one family.

    Args:
        family: A key of `CASES`.
        folder: As `tests.golden.prepare` leaves it.
    """
    case = CASES[family]
    weights = load_file(folder / "weights.safetensors")
    checkpoint = digest(*(weights[name] for name in sorted(weights)))
    weights = {name: value for name, value in weights.items() if not case.is_unread(name)}
    if case.language:
        weights = {name: value for name, value in weights.items() if name.startswith("language_model.")}
    trained_shapes = json.loads((folder / "trained.json").read_text())
    arrays: dict[str, Array] = {}
    runs: dict[str, Any] = {}
    features: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    with reference_folder(folder / "model", case) as path:
        rows, difference = ([], 0.0) if case.language else encode_rows(family, folder, open_processor(path, case))
        print(f"{family}: pixel values within {difference:.2g}", flush=True)
        for name, shapes in trained_shapes.items():
            run = RUNS[name]
            if case.language:
                rows = read_rows(family, folder, is_quantized=run.is_quantized)
            model = load_model(path, case)
            if case.has_frozen_tower:
                keep_features(model.model.vision_tower, features)
            places = places or find_places(model, weights)
            if run.is_quantized:
                dequantized = load_file(folder / "dequantized.safetensors")
                overwrite(model, places, {name: dequantized[name] for name in dequantized if name in places})
            trained = make_trainable(case, run, model, shapes, places)
            initial = trained.values()
            losses, norms = train(case, run, trained, rows)
            for key, value in trained.values().items():
                stored = value if run.whole else fingerprint(key, value - initial[key])
                arrays[f"{name}.{key}"] = np.ascontiguousarray(stored)
            runs[name] = {"losses": losses, "grad_norms": norms}
            print(f"{family} {name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, norms {norms[0]:.3g}", flush=True)
    inputs = load_file(folder / "rows.safetensors")
    record = {
        "family": family,
        "checkpoint": checkpoint,
        "rows": {row: describe_row(row, inputs) for row in case.rows},
        "processor_difference": difference,
        "runs": runs,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }
    (GOLDEN / f"{family}.json").write_text(json.dumps(record, indent=1) + "\n")
    save_file(arrays, GOLDEN / f"{family}.safetensors")


def describe_row(row: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Say by what a row is known: its tokens, what of them is supervised, and the size of its inputs."""
    prefix = f"{row}.inputs."
    inputs = {key.removeprefix(prefix): value for key, value in sorted(arrays.items()) if key.startswith(prefix)}
    return {
        "tokens": digest(arrays[f"{row}.tokens"], arrays[f"{row}.supervised"]),
        "inputs": {key: [*value.shape, float(np.abs(value).mean(dtype=np.float64))] for key, value in inputs.items()},
    }


def overwrite(model: nn.Module, places: Mapping[str, Place], weights: Mapping[str, Array]) -> None:
    """Put other values into parameters."""
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            places[name].view(known[places[name].name]).copy_(torch.from_numpy(value))


def main() -> None:
    """Write the golden files of the named families, or of all, next to this script."""
    options = make_parser("generate", __doc__, "what tests.golden.prepare wrote").parse_args()
    # The order of a parallel sum would depend on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    failed = []
    for family in options.families or sorted(path.name for path in options.work.iterdir()):
        try:
            generate(family, options.work / family)
        except MismatchError as error:
            failed.append(family)
            print(f"{family}: {error}", flush=True)
    if failed:
        msg = f"without golden files: {', '.join(failed)}"
        raise SystemExit(msg)


if __name__ == "__main__":
    main()
