"""The sections of a recipe and their keys: one TOML file says all that a run does.

To add a key, add a field to its section: its default, its check and its place in error messages follow from there.
What two keys together must not say lies in `vlora.recipe.rules`.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_type_hints

import attrs

from . import checks
from .converter import Check, Names

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
        split: Which split of it, or rows of it (`vlora.data.splits`).
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


OPTIMIZERS: tuple[str, ...] = get_args(get_type_hints(OptimSection)["name"])
"""Names of all optimizers: tests go through them."""


@attrs.frozen(kw_only=True)
class TrainSection:
    """How long to train, in what batches, and how often to report. A step is one optimizer update.

    Attributes:
        objective: What is minimised: "sft" is the negative log-likelihood of the supervised tokens.
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

    objective: Literal["sft"] = _key("sft")
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
    """Answers generated on the validation rows before, during and after training.

    Attributes:
        answer_rows: How many rows to answer; 0 for none, -1 for all.
        answer_every: Steps between rounds of answers during training; 0 for none but before and after.
        max_new_tokens: Longest answer.
        temperature: 0 for the likeliest tokens; higher draws more evenly.
        metrics: What answers are measured by: names, and functions of one's own as module:function.
        batch_size: Rows that are answered together; without one train.batch_size, but 8 at least.
    """

    answer_rows: int = _key(0, checks.at_least(-1))
    answer_every: int = _key(0, checks.at_least(0))
    max_new_tokens: int = _key(32, checks.at_least(1))
    temperature: float = _key(0.0, checks.at_least(0))
    metrics: tuple[str, ...] = _key(("exact_match",), checks.names)
    batch_size: int | None = _key(None, checks.at_least(1))


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
        report: Write a page of the run, and a picture of its losses, beside them, again and again while it trains.
        keep_last: How many numbered checkpoints stay, the newest ones; all of them without a number.
        trackers: Programs that get the run's numbers, too: "tensorboard", "trackio", "wandb", "mlflow". `python -m
            vlora` feeds them, and in a loop of your own `vlora.open_trackers`.
        project: The name under which they gather runs; without one theirs from the environment, or "vlora".
    """

    path: str = _key("adapters.safetensors", checks.place)
    report: bool = _key(default=True)
    keep_last: int | None = _key(None, checks.at_least(1))
    trackers: tuple[str, ...] = _key((), checks.trackers)
    project: str | None = _key(None, checks.non_empty)


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
