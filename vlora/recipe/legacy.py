"""The options of mlx-vlm's older `lora.py`, each with the recipe key that it sets. Pure.

People's shell lines and programs keep working: every option exists with its name, type and default. The older script
has no rows to validate on; the options that name some are vlora's own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from ..errors import RecipeError
from .rules import held_out_keys
from .schema import Recipe


@attrs.frozen
class Option:
    """One option.

    Attributes:
        name: As an attribute of `argparse.Namespace`; on the command line with dashes.
        key: The recipe's key, dotted.
        kind: Its type; "flag" takes no value, "pair" takes two integers.
        text: What `--help` says.
    """

    name: str
    key: str
    kind: type | Literal["flag", "pair"]
    text: str

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return "--" + self.name.replace("_", "-")


OPTIONS = (
    Option("model_path", "model.path", str, "hub id or folder of the model"),
    Option("full_finetune", "model.full_finetune", "flag", "train all of the language model"),
    Option("train_vision", "model.train_vision", "flag", "train the vision tower too"),
    Option("dataset", "data.path", str, "hub id, file or folder of the data set"),
    Option("split", "data.split", str, "split of the data set"),
    Option("dataset_config", "data.config", str, "configuration of a hub data set"),
    Option("valid_dataset", "data.valid_path", str, "other rows to validate on: hub id, file or folder"),
    Option("valid_split", "data.valid_split", str, "split of the data set to validate on"),
    Option("valid_fraction", "data.valid_fraction", float, "share of the rows to hold out and validate on"),
    Option(
        "image_resize_shape",
        "data.image_resize_shape",
        "pair",
        "height and width of every image, in pixels",
    ),
    Option(
        "custom_prompt_format",
        "data.custom_prompt_format",
        str,
        "JSON of messages with {column} for values",
    ),
    Option("learning_rate", "optim.learning_rate", float, "highest learning rate"),
    Option("batch_size", "train.batch_size", int, "rows of a microbatch"),
    Option("iters", "train.iters", int, "steps"),
    Option("epochs", "train.epochs", int, "passes over the rows; overrides --iters"),
    Option("steps_per_report", "train.steps_per_report", int, "steps between reports"),
    Option("steps_per_eval", "train.steps_per_eval", int, "steps between validations"),
    Option("steps_per_save", "train.steps_per_save", int, "steps between checkpoints"),
    Option("val_batches", "train.val_batches", int, "batches of a validation, -1 for all"),
    Option("max_seq_length", "data.max_seq_length", int, "tokens of a row at most"),
    Option("grad_checkpoint", "train.grad_checkpoint", "flag", "recompute activations to save memory"),
    Option("grad_clip", "optim.grad_clip", float, "largest global norm of the gradient"),
    Option(
        "train_on_completions",
        "data.train_on_completions",
        "flag",
        "learn the assistant's turns only",
    ),
    Option(
        "gradient_accumulation_steps",
        "train.gradient_accumulation_steps",
        int,
        "microbatches of a step",
    ),
    Option(
        "assistant_id",
        "data.assistant_id",
        int,
        "token that begins an answer, with data.chat_template = plain only",
    ),
    Option("lora_rank", "lora.rank", int, "inner width of the adapter"),
    Option("lora_alpha", "lora.alpha", float, "the update is scaled by alpha / rank"),
    Option("lora_dropout", "lora.dropout", float, "dropout of the adapter's input"),
    Option("output_path", "output.path", str, "where the adapter or the model goes"),
    Option("adapter_path", "model.adapter_path", str, "adapter to go on from"),
)

VALIDATING = ("steps_per_eval", "val_batches")
"""Options that say when and how to validate."""


def overrides_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn option values into recipe overrides.

    Args:
        values: Option names to values, as `vars(namespace)` gives them; None leaves the recipe's value. As in the older
            script, whose iters always had a value, epochs overrides iters.

    Raises:
        RecipeError: A name that is no option.
    """
    known = {option.name: option for option in OPTIONS}
    if unknown := sorted(set(values) - set(known)):
        msg = f"{', '.join(unknown)}: no such option; known are {', '.join(known)}"
        raise RecipeError(msg)
    ignored = {"iters"} if values.get("epochs") is not None else set()
    return {
        known[name].key: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None and name not in ignored
    }


def idle_options(values: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for every option that was given and has no effect.

    Args:
        values: As for `overrides_from`.
        recipe: What the options and the recipe's file together have become.
    """
    if held_out_keys(recipe.data):
        return
    for option in OPTIONS:
        if option.name in VALIDATING and values.get(option.name) is not None:
            yield (
                f"{option.flag} has no effect: nothing is held out to validate on; give --valid-dataset, --valid-split "
                "or --valid-fraction"
            )
