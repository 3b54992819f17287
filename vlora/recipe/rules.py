"""Keys of a recipe that contradict one another. Pure."""

from collections.abc import Iterator

import attrs

from .columns import find_mistakes, placeholders
from .converter import plain
from .meanings import explain_value
from .preference_rules import find_preference_contradictions
from .schema import WITHOUT_WEIGHT_DECAY, DataSection, LoraSection, Recipe, TrainSection
from .sources import find_source_contradictions
from .streaming_rules import find_streaming_contradictions


def held_out_keys(data: DataSection) -> list[str]:
    """Name the keys that hold rows out to validate on."""
    return [f"data.{key}" for key in ("valid_path", "valid_split", "valid_fraction") if getattr(data, key)]


def find_contradictions(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for every contradiction."""
    data, model, optim = recipe.data, recipe.model, recipe.optim
    held_out = held_out_keys(data)
    yield from find_source_contradictions(data.path, data.sources, attrs.asdict(data, recurse=False))
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
    if optim.name in WITHOUT_WEIGHT_DECAY and optim.weight_decay:
        found = f"found {optim.weight_decay} with optim.name = {optim.name!r}, which has none"
        yield f"optim.weight_decay: {found}; use 'adamw'"
    yield from _memory_contradictions(recipe)
    yield from _adapter_contradictions(recipe)
    yield from _batching_contradictions(recipe)
    yield from _shard_contradictions(recipe)
    yield from find_preference_contradictions(recipe)
    yield from find_streaming_contradictions(recipe)
    yield from _choice_contradictions(recipe, is_validated=bool(held_out))
    if recipe.output.project is not None and not recipe.output.trackers:
        yield (
            f"output.project: found {recipe.output.project!r} without output.trackers, which it is for; name one, or "
            "leave it out"
        )
    if recipe.eval.answer_rows and not held_out:
        yield (
            "eval.answer_rows: nothing is held out to answer; give data.valid_path, data.valid_split "
            "or data.valid_fraction"
        )


def value_name(metric: str) -> str:
    """Name the value of a metric as answers' scores do: a function of one's own without its module."""
    return metric.rpartition(":")[2]


def _choice_contradictions(recipe: Recipe, *, is_validated: bool) -> Iterator[str]:
    train, output = recipe.train, recipe.output
    judging = {"output.keep_best": output.keep_best, "train.early_stopping_patience": train.early_stopping_patience}
    for key, found in judging.items():
        if found is not None and not is_validated:
            yield (
                f"{key}: found {found!r}, and nothing is held out to validate on; give data.valid_path, "
                "data.valid_split or data.valid_fraction"
            )
    if output.keep_best not in (None, "valid_loss"):
        # A metric may have values of parts, too: json_fields.price.
        whole = value_name(output.keep_best).partition(".")[0]
        if whole not in map(value_name, recipe.eval.metrics):
            names = ", ".join(repr(value_name(name)) for name in recipe.eval.metrics)
            yield (
                f"output.keep_best: found {output.keep_best!r}, which is neither 'valid_loss' nor one of eval.metrics "
                f"({names or 'none'}); {explain_value('output.keep_best', output.keep_best) or 'add it there'}"
            )
        elif not recipe.eval.answer_rows or not recipe.eval.answer_every:
            yield (
                f"output.keep_best: found {output.keep_best!r}, and no answers are measured while training; set "
                "eval.answer_rows and eval.answer_every"
            )
    if train.early_stopping_min_delta and train.early_stopping_patience is None:
        yield (
            f"train.early_stopping_min_delta: found {train.early_stopping_min_delta:g} without "
            "train.early_stopping_patience, which it is a part of; set both"
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


def _shard_contradictions(recipe: Recipe) -> Iterator[str]:
    train, model = recipe.train, recipe.model
    if train.shard == "none":
        return
    found = f"train.shard: found {train.shard!r} together with"
    if (train.grad_checkpoint, train.checkpoint_every, train.checkpoint_part) != (True, 1, "layer"):
        yield (
            f"train.shard: found {train.shard!r}, which needs every layer to be recomputed; set "
            "train.grad_checkpoint = true, and leave train.checkpoint_every and train.checkpoint_part out"
        )
    if model.full_finetune:
        yield f"{found} model.full_finetune = true, which leaves nothing frozen to divide; leave it out"
    if model.add_tokens:
        yield f"{found} model.add_tokens, for which the whole model is written; leave one of the two out"
    if recipe.eval.answer_rows:
        yield (
            f"{found} eval.answer_rows = {recipe.eval.answer_rows}; devices cannot answer rows of their own with "
            "divided weights, so set it to 0, and ask the finished adapter with `python -m vlora eval`"
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
                    f"lora.{key}: found {plain(getattr(lora, key))!r} together with model.full_finetune = true, "
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
