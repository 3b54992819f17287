"""The sections of a recipe and their keys: one TOML file says all that a run does.

To add a key, add a field to its section: its default, its check and its place in error messages follow from there.
What two keys together must not say lies in `vlora.recipe.rules`.
"""

from collections.abc import Mapping
from typing import Literal, get_args, get_type_hints

import attrs

from . import checks
from .converter import Names, key
from .preference import PreferenceSection
from .resources import MOST_IDS, FeaturesSection, MemorySection
from .sources import SourceSection

MOST_ROWS = 2**20
"""Of a microbatch. What fits into memory is far less, and is found when the rows are there."""

MOST_RANK, MOST_THREADS = 2**16, 2**10

MOST_WAITING = 2**17
"""Of rows in a shuffle buffer: a training state names each of them."""


@attrs.frozen(kw_only=True)
class ModelSection:
    """Which model is trained, and which of its parts.

    Attributes:
        path: Hub id, local folder, or "builtin:tiny-qwen3-vl".
        revision: Which version of a hub id's: a branch, a tag or a commit; that of its main branch without one.
        full_finetune: Train all of the language model instead of a LoRA.
        train_vision: Train the vision tower and its projector too.
        adapter_path: An adapter to go on from, as vlora, mlx-vlm, mlx-lm or PEFT write it.
        strict_base: Refuse adapters and training states that were made with other weights than the model's, or that do
            not say with which.
        trust_remote_code: Let the model's repository run its own Python code.
        quantize_bits: Quantize a floating-point language model on loading (QLoRA).
        quantize_group_size: Weights that share a scale when quantize_bits is given.
        add_tokens: Tokens that the model does not have and gets; its embedding table and head are enlarged and trained.
    """

    path: str = key("mlx-community/Qwen2-VL-2B-Instruct-bf16", checks.place)
    revision: str | None = key(None, checks.place)
    full_finetune: bool = key(default=False)
    train_vision: bool = key(default=False)
    adapter_path: str | None = key(None, checks.place)
    strict_base: bool = key(default=False)
    trust_remote_code: bool = key(default=False)
    quantize_bits: int | None = key(None, checks.bits)
    quantize_group_size: int = key(64, checks.group_size)
    add_tokens: tuple[str, ...] = key((), checks.tokens)


@attrs.frozen(kw_only=True)
class DataSection:
    """Which rows are learned, and what of each row.

    Attributes:
        path: Hub id, saved dataset, Parquet, JSON or CSV file, several of them ("data/*.parquet"), image folder, or
            "builtin:digits".
        sources: Several sets of rows instead of path, each a table [[data.sources]] (`vlora.recipe.sources`).
        revision: Which version of a hub data set: a branch, a tag or a commit; that of its main branch without one.
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
        streaming: Read rows one after another while training, without counting them first: JSON Lines, CSV, Parquet and
            WebDataset tar files, several with a wildcard (shards/*.tar), and those of the hub. It needs train.iters.
        shuffle_buffer: Rows of each stream that wait to be drawn from; those of Parquet and the hub are kept in memory.
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

    path: str | None = key(None, checks.place)
    sources: tuple[SourceSection, ...] = key(())
    revision: str | None = key(None, checks.place)
    split: str = key("train", checks.place)
    config: str | None = key(None, checks.place)
    image_resize_shape: tuple[int, int] | None = key(None, checks.positive_pair)
    max_pixels: int | None = key(None, checks.at_least(1))
    custom_prompt_format: str | None = key(None, checks.prompt_format)
    columns: Mapping[str, str] = key(attrs.Factory(Names), None)
    image_root: str | None = key(None, checks.place)
    system: str | None = key(None, checks.non_empty)
    max_seq_length: int = key(2048, checks.at_least(2))
    on_long_row: Literal["cut", "skip", "raise"] = key("cut")
    train_on_completions: bool = key(default=False)
    learn_end: bool = key(default=True)
    shuffle: bool = key(default=True)
    streaming: bool = key(default=False)
    shuffle_buffer: int = key(1000, checks.within(1, MOST_WAITING))
    valid_path: str | None = key(None, checks.place)
    valid_split: str | None = key(None, checks.place)
    valid_fraction: float = key(0.0, checks.fraction)
    on_bad_row: Literal["raise", "skip"] = key("raise")
    allow_changed_rows: bool = key(default=False)
    allow_urls: bool = key(default=False)
    chat_template: str | None = key(None, checks.place)
    assistant_id: int | None = key(None, checks.within(0, MOST_IDS))
    workers: int | None = key(None, checks.within(0, MOST_THREADS))
    prefetch: int = key(2, checks.at_least(1))


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

    rank: int = key(8, checks.within(1, MOST_RANK))
    alpha: float = key(16.0, checks.above(0))
    dropout: float = key(0.0, checks.fraction)
    targets: tuple[str, ...] = key((), checks.patterns)
    last_layers: int | None = key(None, checks.at_least(1))
    method: Literal["lora", "dora"] = key("lora")
    rslora: bool = key(default=False)
    init: Literal["default", "pissa"] = key("default")
    train_embeddings: bool = key(default=False)
    train_head: bool = key(default=False)


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

    name: Literal["adam", "adamw", "sgd", "muon", "adafactor", "lion"] = key("adamw")
    learning_rate: float = key(2e-5, checks.above(0))
    lora_plus_ratio: float | None = key(None, checks.above(0))
    connector_rate: float | None = key(None, checks.above(0))
    vision_rate: float | None = key(None, checks.above(0))
    weight_decay: float = key(0.0, checks.at_least(0))
    decay_all: bool = key(default=False)
    betas: tuple[float, float] = key((0.9, 0.999), checks.betas)
    eps: float = key(1e-8, checks.above(0))
    schedule: Literal["constant", "linear", "cosine"] = key("constant")
    warmup_steps: int = key(0, checks.at_least(0))
    grad_clip: float | None = key(None, checks.above(0))


OPTIMIZERS: tuple[str, ...] = get_args(get_type_hints(OptimSection)["name"])
"""Names of all optimizers: tests go through them."""

WITHOUT_WEIGHT_DECAY: tuple[str, ...] = ("adam",)
"""Those that have no weight decay; a recipe that gives them one is refused."""


@attrs.frozen(kw_only=True)
class TrainSection:
    """How long to train, in what batches, and how often to report. A step is one optimizer update.

    Attributes:
        objective: What is minimised: "sft" is the negative log-likelihood of the supervised tokens; "dpo", "orpo" and
            "cpo" compare two answers, "kto" reads one and a mark of whether it is wanted; see preference.
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
        shard: "params" divides the frozen weights among the devices of a run with several; each gathers those of a
            layer when it runs. It needs grad_checkpoint. "none" leaves them whole on each device.
        seed: Fixes the order of the rows, the adapter's start and the dropout.
        steps_per_report: Steps between reports.
        steps_per_eval: Steps between validations.
        steps_per_save: Steps between numbered checkpoints.
        early_stopping_patience: So many validations in a row that are no better end the run.
            output.keep_best says which value; the loss without it.
        early_stopping_min_delta: By how much a value has to be better for that.
        val_batches: Batches of a validation at most; -1 for all.
    """

    objective: Literal["sft", "dpo", "kto", "orpo", "cpo"] = key("sft")
    batch_size: int = key(4, checks.within(1, MOST_ROWS))
    batching: Literal["shuffled", "grouped", "packed"] = key("shuffled")
    pack_length: int | None = key(None, checks.at_least(2))
    iters: int = key(1000, checks.at_least(1))
    epochs: int | None = key(None, checks.at_least(1))
    gradient_accumulation_steps: int = key(1, checks.at_least(1))
    grad_checkpoint: bool = key(default=False)
    checkpoint_every: int = key(1, checks.at_least(1))
    checkpoint_part: Literal["layer", "mlp"] = key("layer")
    shard: Literal["none", "params"] = key("none")
    seed: int = key(0, checks.at_least(0))
    steps_per_report: int = key(10, checks.at_least(1))
    steps_per_eval: int = key(200, checks.at_least(1))
    steps_per_save: int = key(100, checks.at_least(1))
    early_stopping_patience: int | None = key(None, checks.at_least(1))
    early_stopping_min_delta: float = key(0.0, checks.at_least(0))
    val_batches: int = key(25, checks.some_or_all)


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

    answer_rows: int = key(0, checks.at_least(-1))
    answer_every: int = key(0, checks.at_least(0))
    max_new_tokens: int = key(32, checks.at_least(1))
    temperature: float = key(0.0, checks.at_least(0))
    metrics: tuple[str, ...] = key(("exact_match",), checks.names)
    batch_size: int | None = key(None, checks.at_least(1))


@attrs.frozen(kw_only=True)
class OutputSection:
    """Where the result goes.

    Attributes:
        path: The adapter's file, or a folder for it; for full fine-tuning the model's folder.
        report: Write a page of the run, and a picture of its losses, beside them, again and again while it trains.
        keep_best: By which value the best state is kept, in the folder best beside the adapter or in the model's:
            "valid_loss" or one of eval.metrics; it is not kept without one.
        keep_last: How many numbered checkpoints stay, the newest ones; all of them without a number.
        trackers: Programs that get the run's numbers, too: "tensorboard", "trackio", "wandb", "mlflow". `python -m
            vlora` feeds them, and in a loop of your own `vlora.open_trackers`.
        project: The name under which they gather runs; without one theirs from the environment, or "vlora".
    """

    path: str = key("adapters.safetensors", checks.place)
    report: bool = key(default=True)
    keep_best: str | None = key(None, checks.non_empty)
    keep_last: int | None = key(None, checks.at_least(1))
    trackers: tuple[str, ...] = key((), checks.trackers)
    project: str | None = key(None, checks.non_empty)


@attrs.frozen(kw_only=True)
class Recipe:
    """All that a run does. Make one with `parse_recipe`, vary it with `attrs.evolve`."""

    model: ModelSection = attrs.field(factory=ModelSection)
    data: DataSection
    lora: LoraSection = attrs.field(factory=LoraSection)
    optim: OptimSection = attrs.field(factory=OptimSection)
    train: TrainSection = attrs.field(factory=TrainSection)
    preference: PreferenceSection = attrs.field(factory=PreferenceSection)
    eval: EvalSection = attrs.field(factory=EvalSection)
    features: FeaturesSection = attrs.field(factory=FeaturesSection)
    memory: MemorySection = attrs.field(factory=MemorySection)
    output: OutputSection = attrs.field(factory=OutputSection)
