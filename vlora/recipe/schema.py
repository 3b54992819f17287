"""Recipes: one TOML file says all that a run does.

`parse_recipe` is strict: it reports every unknown key, wrong type and impossible value at once. Pure:
files are read in `vlora.cli.arguments`. To add a key, add a field to its section; its default, its check and its
place in error messages follow from there.
"""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_type_hints

import attrs
import tomli_w
from cattrs import ClassValidationError

from ..errors import RecipeError
from . import checks
from .columns import find_mistakes, placeholders
from .converter import Check, Names, explain, make_converter, nearest

LENGTHS = ("iters", "epochs")
"""The keys of [train] that say how long a run is; a recipe names one of them."""

MOST_ROWS = 2**20
"""Of a microbatch. What fits into memory is far less, and is found when the rows are there."""

MOST_RANK, MOST_THREADS, MOST_IDS = 2**16, 2**10, 2**31 - 1


def _key(default: Any = attrs.NOTHING, check: Check | None = None) -> Any:
    return attrs.field(default=default, metadata={"check": check})


@attrs.frozen(kw_only=True)
class ModelSection:
    """Which model is trained, and which of its parts.

    Attributes:
        path: Hub id, local folder, or "builtin:tiny-qwen3-vl".
        full_finetune: Train all of the language model instead of a LoRA.
        train_vision: Train the vision tower and its projector too.
        adapter_path: An adapter to go on from.
        trust_remote_code: Let the model's repository run its own Python code.
        quantize_bits: Quantize a floating-point language model on loading (QLoRA).
        quantize_group_size: Weights that share a scale when quantize_bits is given.
        add_tokens: Tokens that the model does not have and gets; its embedding table and head are enlarged and trained.
    """

    path: str = _key("mlx-community/Qwen2-VL-2B-Instruct-bf16", checks.place)
    full_finetune: bool = _key(default=False)
    train_vision: bool = _key(default=False)
    adapter_path: str | None = _key(None, checks.place)
    trust_remote_code: bool = _key(default=False)
    quantize_bits: int | None = _key(None, checks.bits)
    quantize_group_size: int = _key(64, checks.group_size)
    add_tokens: tuple[str, ...] = _key((), checks.tokens)


@attrs.frozen(kw_only=True)
class DataSection:
    """Which rows are learned, and what of each row.

    Attributes:
        path: Hub id, saved dataset, Parquet, JSON or CSV file, image folder, or "builtin:digits".
        split: Which split of it, or rows of it (`vlora.data.readers.splits`).
        config: Which configuration of a hub dataset.
        image_resize_shape: (height, width) in pixels; images are resized to it before the processor.
        max_pixels: Pixels of an image at most; larger ones are scaled down, their aspect kept.
        custom_prompt_format: JSON of messages with {image}, {question}, {answer} or other columns.
        columns: Names of the rows' columns, and as what they are read: {imgs = "images", notes = "unused"}.
        image_root: The folder where relative image paths begin; without one that of the file with the rows.
        system: A system prompt for rows that have none.
        max_seq_length: Tokens of a row at most; text beyond is cut, images never.
        on_long_row: "cut" shortens a longer row, counts and names it; "skip" leaves it out, "raise" stops at it.
        train_on_completions: Learn the assistant's turns only.
        learn_end: End answers with the token at which generation ends where the chat template does not end them; false
            leaves them as the template writes them.
        shuffle: Draw a new order every epoch.
        valid_path: Other rows to validate on.
        valid_split: Another split of `path` to validate on.
        valid_fraction: A share of the rows to hold out and validate on.
        on_bad_row: "raise" stops at a row that cannot be learned from, "skip" counts and reports it.
        allow_changed_rows: Go on with --resume although rows that were learned have changed since.
        allow_urls: Fetch images behind http and https addresses of the public internet.
        chat_template: What writes conversations, for models without a chat template or in place of theirs: "chatml",
            "gemma", "llava", "plain" (turns one below the other), or a file with a template.
        assistant_id: Token id after which what is learned begins, with chat_template = "plain" only; without it the
            assistant's turns are learned there, too.
        workers: Threads that read and encode rows while the device works; 0 does it between the steps. Without a number
            half of the processor's cores, at least 2 and at most 8.
        prefetch: Batches that they are ahead at most.
    """

    path: str = _key(check=checks.place)
    split: str = _key("train", checks.place)
    config: str | None = _key(None, checks.place)
    image_resize_shape: tuple[int, int] | None = _key(None, checks.positive_pair)
    max_pixels: int | None = _key(None, checks.at_least(1))
    custom_prompt_format: str | None = _key(None, checks.prompt_format)
    columns: Mapping[str, str] = _key(attrs.Factory(Names), None)
    image_root: str | None = _key(None, checks.place)
    system: str | None = _key(None, checks.non_empty)
    max_seq_length: int = _key(2048, checks.at_least(2))
    on_long_row: Literal["cut", "skip", "raise"] = _key("cut")
    train_on_completions: bool = _key(default=False)
    learn_end: bool = _key(default=True)
    shuffle: bool = _key(default=True)
    valid_path: str | None = _key(None, checks.place)
    valid_split: str | None = _key(None, checks.place)
    valid_fraction: float = _key(0.0, checks.fraction)
    on_bad_row: Literal["raise", "skip"] = _key("raise")
    allow_changed_rows: bool = _key(default=False)
    allow_urls: bool = _key(default=False)
    chat_template: str | None = _key(None, checks.place)
    assistant_id: int | None = _key(None, checks.within(0, MOST_IDS))
    workers: int | None = _key(None, checks.within(0, MOST_THREADS))
    prefetch: int = _key(2, checks.at_least(1))


@attrs.frozen(kw_only=True)
class LoraSection:
    """The adapter.

    Attributes:
        rank: Inner width of the low-rank update.
        alpha: The update is scaled by alpha / rank.
        dropout: Probability of dropping an input of the update.
        targets: Which layers get one: suffixes or qualified names of layers, regular expressions over qualified names
            ("re:..."), groups (language, vision, connector, experts, attention, mlp, all-linear); none means all
            linear and expert layers of the language model but its head and its routers.
        last_layers: Only this many of the language model's last layers.
        method: "dora" also trains the length of every adapted row of weights.
        rslora: Scale by alpha / sqrt(rank) instead.
        init: "pissa" starts from the largest singular values of the weights instead of from nothing.
        train_embeddings: Train the language model's token embeddings too, all their weights.
        train_head: Train the language model's head too, all its weights.
    """

    rank: int = _key(8, checks.within(1, MOST_RANK))
    alpha: float = _key(16.0, checks.above(0))
    dropout: float = _key(0.0, checks.fraction)
    targets: tuple[str, ...] = _key((), checks.patterns)
    last_layers: int | None = _key(None, checks.at_least(1))
    method: Literal["lora", "dora"] = _key("lora")
    rslora: bool = _key(default=False)
    init: Literal["default", "pissa"] = _key("default")
    train_embeddings: bool = _key(default=False)
    train_head: bool = _key(default=False)


@attrs.frozen(kw_only=True)
class OptimSection:
    """The optimizer and its learning rate.

    Attributes:
        name: One of MLX's optimizers; adam and adamw with bias correction.
        learning_rate: The highest rate, reached after the warmup.
        lora_plus_ratio: LoRA+: the rate of every B, and of DoRA's magnitudes, is this many times that of A.
        connector_rate: The highest rate of the connector between tower and language model, if it is another one.
        vision_rate: The highest rate of the vision tower, if it is another one.
        weight_decay: Decoupled for adamw, lion and adafactor; added to the gradient for sgd and muon. Norms, biases and
            other parameters of one dimension are left out, but for DoRA's magnitudes.
        decay_all: Let those decay too.
        betas: Decay rates of the two moments; sgd and muon take the first as momentum.
        eps: Added to the denominator of adam and adamw.
        schedule: How the rate falls from its highest to zero over the run.
        warmup_steps: Steps over which the rate rises from 0, that of the first step, to its highest.
        grad_clip: Largest global norm of the gradient.
    """

    name: Literal["adam", "adamw", "sgd", "muon", "adafactor", "lion"] = _key("adamw")
    learning_rate: float = _key(2e-5, checks.above(0))
    lora_plus_ratio: float | None = _key(None, checks.above(0))
    connector_rate: float | None = _key(None, checks.above(0))
    vision_rate: float | None = _key(None, checks.above(0))
    weight_decay: float = _key(0.0, checks.at_least(0))
    decay_all: bool = _key(default=False)
    betas: tuple[float, float] = _key((0.9, 0.999), checks.betas)
    eps: float = _key(1e-8, checks.above(0))
    schedule: Literal["constant", "linear", "cosine"] = _key("constant")
    warmup_steps: int = _key(0, checks.at_least(0))
    grad_clip: float | None = _key(None, checks.above(0))


@attrs.frozen(kw_only=True)
class TrainSection:
    """How long, in what portions, and how often to report. A step is one optimizer update.

    Attributes:
        batch_size: Rows of one forward and backward pass (a microbatch).
        batching: "shuffled" gives each row of data a row of the batch; "grouped" likewise, with rows of like length in
            a batch; "packed" puts several into one, for models whose attention keeps them apart.
        pack_length: Tokens of a packed row at most; data.max_seq_length if left out.
        iters: Steps; a recipe that has epochs does not name them.
        epochs: Passes over the rows, instead of iters.
        gradient_accumulation_steps: Microbatches of a step.
        grad_checkpoint: Recompute activations in the backward pass to save memory: those of the language model's
            layers, and of the tower's where it is trained.
        checkpoint_every: Recompute those of every k-th layer only.
        checkpoint_part: "layer" recomputes whole layers, "mlp" their MLPs only.
        seed: Fixes the order of the rows, the adapter's start and the dropout.
        steps_per_report: Steps between reports.
        steps_per_eval: Steps between validations.
        steps_per_save: Steps between numbered checkpoints.
        val_batches: Batches of a validation at most; -1 for all.
    """

    batch_size: int = _key(4, checks.within(1, MOST_ROWS))
    batching: Literal["shuffled", "grouped", "packed"] = _key("shuffled")
    pack_length: int | None = _key(None, checks.at_least(2))
    iters: int = _key(1000, checks.at_least(1))
    epochs: int | None = _key(None, checks.at_least(1))
    gradient_accumulation_steps: int = _key(1, checks.at_least(1))
    grad_checkpoint: bool = _key(default=False)
    checkpoint_every: int = _key(1, checks.at_least(1))
    checkpoint_part: Literal["layer", "mlp"] = _key("layer")
    seed: int = _key(0, checks.at_least(0))
    steps_per_report: int = _key(10, checks.at_least(1))
    steps_per_eval: int = _key(200, checks.at_least(1))
    steps_per_save: int = _key(100, checks.at_least(1))
    val_batches: int = _key(25, checks.some_or_all)


@attrs.frozen(kw_only=True)
class EvalSection:
    """Answers generated on the validation rows before and after training.

    Attributes:
        answer_rows: How many rows to answer; 0 for none, -1 for all.
        max_new_tokens: Longest answer.
    """

    answer_rows: int = _key(0, checks.at_least(-1))
    max_new_tokens: int = _key(32, checks.at_least(1))


@attrs.frozen(kw_only=True)
class FeaturesSection:
    """Features of images, kept from epoch to epoch and from run to run while nothing that makes them is trained.

    Attributes:
        cache: Keep them.
        memory_gb: Gigabytes of memory for them at most; 0 for none. Without a number a sixteenth of the device's, but
            1 at least.
        disk_gb: Gigabytes of disk for those of all models together at most; 0 for none.
        path: The folder on disk; without one, vlora/features in the user's cache directory.
    """

    cache: bool = _key(default=True)
    memory_gb: float | None = _key(None, checks.gigabytes)
    disk_gb: float = _key(20.0, checks.gigabytes)
    path: str | None = _key(None, checks.place)


@attrs.frozen(kw_only=True)
class MemorySection:
    """What MLX may take of the device's memory, in gigabytes (1e9 bytes).

    Attributes:
        limit_gb: Beyond it MLX waits for what is under way before it allocates more, and frees what it keeps.
        cache_gb: Freed buffers that MLX keeps for reuse at most; half of the limit if not given, an eighth on a CPU.
        wired_gb: Memory of a Mac that is never swapped out.
        max_mb_per_buffer: Work that is handed to an NVIDIA GPU at once: numbers that it reads, in units of 2**20, at
            most. Without it what MLX_MAX_MB_PER_BUFFER says, else in proportion to a card of the latest kinds, else
            MLX's own.
    """

    limit_gb: float | None = _key(None, checks.some_gigabytes)
    cache_gb: float | None = _key(None, checks.gigabytes)
    wired_gb: float | None = _key(None, checks.some_gigabytes)
    max_mb_per_buffer: int | None = _key(None, checks.within(1, MOST_IDS))


@attrs.frozen(kw_only=True)
class OutputSection:
    """Where the result goes.

    Attributes:
        path: The adapter's file, or a folder for it; for full fine-tuning the model's folder.
    """

    path: str = _key("adapters.safetensors", checks.place)


@attrs.frozen(kw_only=True)
class Recipe:
    """All that a run does. Make one with `parse_recipe`, vary it with `attrs.evolve`."""

    model: ModelSection = attrs.field(factory=ModelSection)
    data: DataSection
    lora: LoraSection = attrs.field(factory=LoraSection)
    optim: OptimSection = attrs.field(factory=OptimSection)
    train: TrainSection = attrs.field(factory=TrainSection)
    eval: EvalSection = attrs.field(factory=EvalSection)
    features: FeaturesSection = attrs.field(factory=FeaturesSection)
    memory: MemorySection = attrs.field(factory=MemorySection)
    output: OutputSection = attrs.field(factory=OutputSection)


_SECTIONS: dict[str, type] = {name: hint for name, hint in get_type_hints(Recipe).items() if attrs.has(hint)}
_CONVERTER = make_converter(_SECTIONS.values())


def parse_recipe(text: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        text: TOML.
        overrides: Values that replace those of the text, under dotted keys ("train.iters"). Of iters and epochs either
            replaces the other, too.

    Raises:
        RecipeError: One message that lists everything wrong: key, value found, what is expected.
    """
    try:
        raw = tomllib.loads(text)
    except ValueError as error:
        # Not only of TOML's own: Python reads no number of thousands of digits.
        msg = f"the recipe is not TOML: {str(error).partition(';')[0]}"
        raise RecipeError(msg) from None
    except RecursionError:
        msg = "the recipe is not TOML that can be read: it is nested too deeply"
        raise RecipeError(msg) from None
    problems = []
    overrides = overrides or {}
    if isinstance(raw.get("train"), dict) and any(f"train.{name}" in overrides for name in LENGTHS):
        # Whoever gives one of them for this run means it; if both are given that is said below.
        raw["train"] = {name: value for name, value in raw["train"].items() if name not in LENGTHS}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section not in _SECTIONS or not name:
            problems.append(f"{key}: unknown key; {nearest(key, all_keys())}")
        elif isinstance(raw.setdefault(section, {}), dict):
            raw[section][name] = value
    try:
        recipe = structure_recipe(raw)
    except RecipeError as error:
        problems += str(error).splitlines()
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def structure_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Make a recipe of nested dicts; the checks and errors of `parse_recipe`."""
    problems: list[str] = []
    if "data" not in raw:
        # Reported as the one key that is missing, not as a missing section.
        raw = {**raw, "data": {}}
    try:
        recipe: Recipe = _CONVERTER.structure(raw, Recipe)
    except ClassValidationError as error:
        problems += explain(error, list(_SECTIONS), all_keys())
        recipe = None  # type: ignore[assignment]
    else:
        problems += _contradictions(recipe)
    if isinstance(train := raw.get("train"), Mapping) and train.keys() >= set(LENGTHS):
        problems.append(
            f"train.iters and train.epochs: found {train['iters']!r} and {train['epochs']!r}; either says how long the "
            "run is, keep one"
        )
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe with every default spelled out; `parse_recipe` of it gives an equal one."""
    sections = attrs.asdict(recipe, value_serializer=lambda *args: _plain(args[2]))
    if recipe.train.epochs is not None:
        del sections["train"]["iters"]
    return tomli_w.dumps(
        {
            name: {key: value for key, value in section.items() if value is not None}
            for name, section in sections.items()
        }
    )


def parse_value(text: str) -> Any:
    """Read a value given on the command line: TOML where it is TOML, otherwise a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def all_keys() -> list[str]:
    """Name every key of a recipe, dotted."""
    return [f"{name}.{field.name}" for name, kind in _SECTIONS.items() for field in attrs.fields(kind)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _contradictions(recipe: Recipe) -> Iterator[str]:
    data, model, optim = recipe.data, recipe.model, recipe.optim
    held_out = [f"data.{key}" for key in ("valid_path", "valid_split", "valid_fraction") if getattr(data, key)]
    if len(held_out) > 1:
        yield f"{' and '.join(held_out)}: they exclude one another; keep one"
    names = None if data.custom_prompt_format is None else placeholders(data.custom_prompt_format)
    yield from find_mistakes(data.columns, names)
    if data.max_pixels and data.image_resize_shape:
        yield "data.max_pixels and data.image_resize_shape: they exclude one another; keep one"
    if model.full_finetune and model.adapter_path:
        yield (
            f"model.adapter_path: found {model.adapter_path!r} together with model.full_finetune = true; "
            "to go on from a fully fine-tuned model, give its folder as model.path"
        )
    if model.full_finetune and model.quantize_bits:
        yield (
            f"model.quantize_bits: found {model.quantize_bits} together with model.full_finetune = true; "
            "quantized weights cannot be trained, train a LoRA on them"
        )
    if optim.name == "adam" and optim.weight_decay:
        yield (f"optim.weight_decay: found {optim.weight_decay} with optim.name = 'adam', which has none; use 'adamw'")
    yield from _memory_contradictions(recipe)
    yield from _adapter_contradictions(recipe)
    yield from _batching_contradictions(recipe)
    if recipe.eval.answer_rows and not held_out:
        yield (
            "eval.answer_rows: nothing is held out to answer; give data.valid_path, data.valid_split "
            "or data.valid_fraction"
        )


def _batching_contradictions(recipe: Recipe) -> Iterator[str]:
    length, shortest = recipe.train.pack_length, recipe.data.max_seq_length
    if recipe.train.batching == "grouped" and not recipe.data.shuffle:
        yield "train.batching: found 'grouped' together with data.shuffle = false; it gives up the rows' own order"
    if length is not None and recipe.train.batching != "packed":
        yield (
            f"train.pack_length: found {length} together with train.batching = {recipe.train.batching!r}; only packed "
            "rows have a length of their own, set train.batching = 'packed'"
        )
    elif length is not None and length < shortest:
        yield (
            f"train.pack_length: found {length}, less than data.max_seq_length = {shortest}; a row of data has to fit "
            "into a packed one"
        )


def _memory_contradictions(recipe: Recipe) -> Iterator[str]:
    memory = recipe.memory
    for key in ("cache_gb", "wired_gb"):
        found, limit = getattr(memory, key), memory.limit_gb
        if found is not None and limit is not None and found > limit:
            yield f"memory.{key}: found {found:g}, more than memory.limit_gb = {limit:g}; lower it"
    for key in ("checkpoint_every", "checkpoint_part"):
        found = getattr(recipe.train, key)
        if not recipe.train.grad_checkpoint and found != getattr(TrainSection(), key):
            yield f"train.{key}: found {found!r} without train.grad_checkpoint = true, which it is a part of; set both"


def _adapter_contradictions(recipe: Recipe) -> Iterator[str]:
    model, lora, optim = recipe.model, recipe.lora, recipe.optim
    if model.full_finetune:
        # Rank, alpha and dropout are left: mlx-vlm's older script takes them together with --full-finetune.
        default = LoraSection()
        for key in ("targets", "last_layers", "method", "rslora", "init", "train_embeddings", "train_head"):
            if getattr(lora, key) != getattr(default, key):
                yield (
                    f"lora.{key}: found {_plain(getattr(lora, key))!r} together with model.full_finetune = true, "
                    "which trains all of the language model and no LoRA; leave one of the two out"
                )
        if optim.lora_plus_ratio is not None:
            yield (
                f"optim.lora_plus_ratio: found {optim.lora_plus_ratio} together with model.full_finetune = true; "
                "only a LoRA has a B"
            )
    for key in ("train_embeddings", "train_head"):
        if getattr(lora, key) and model.quantize_bits:
            yield (
                f"lora.{key}: found true together with model.quantize_bits = {model.quantize_bits}; quantized weights "
                "cannot be trained"
            )
    if lora.init == "pissa" and model.adapter_path:
        yield (
            f"lora.init: found 'pissa' together with model.adapter_path = {model.adapter_path!r}; the adapter has its "
            "start already, leave lora.init out"
        )
    for key in ("connector_rate", "vision_rate"):
        # What a list of targets matches shows on the model only; see `vlora.adapters.targets`.
        only_language = not model.train_vision and not lora.targets and not model.adapter_path
        if getattr(optim, key) is not None and only_language:
            yield (
                f"optim.{key}: found {getattr(optim, key)}, but only the language model is trained; set "
                "model.train_vision = true or name layers of the tower in lora.targets"
            )
