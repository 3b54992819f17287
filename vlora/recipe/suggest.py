"""A recipe for rows and a model that were looked at: which columns, how long, how many at once, and why. Pure.

`vlora.report.facts` looks; `suggest_recipe` writes. Every key that is written has a comment with the fact behind it.
"""

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs
import tomli_w

from ..system.nouns import with_noun

DEFAULT_MODEL = "mlx-community/Qwen2-VL-2B-Instruct-bf16"
"""What a recipe names where no model was given."""

MOST_BAD = 0.25
"""The share of the rows that were looked at up to which bad ones are left out: more of them have one cause."""
FEW_ROWS, MANY_ROWS = 2_000, 20_000
SHARE = 0.05
MOST_HELD_OUT = 500
FEWEST_TO_HOLD_OUT = 10
ROWS_OF_A_STEP = 8
SHORT_ANSWER = 5
"""Words up to which an answer is compared as a whole."""
MOST_CLASSES = 20
METRICS_OF = {
    "boxes": (["box_iou", "box_acc_50"], "most answers are boxes"),
    "json": (["json_valid", "json_fields"], "most answers are JSON objects"),
}
"""Metrics of answers that are no plain texts, and the reason."""
LEARNING_RATES = (
    (2e-5, "for LoRA on preferences"),
    (1e-4, "for LoRA; a tenth of it for full fine-tuning"),
)
"""What preferences and answers are learned with, and the reason."""
OBJECTIVES = {
    "dpo": "the rows have a better and a worse answer",
    "kto": "the rows say whether their answer is wanted",
}
FEWEST_ROWS_OF_A_BATCH = {"sft": 1, "dpo": 1, "kto": 2}
"""KTO estimates a divergence from the other rows of a batch."""
FEWEST_NEW_TOKENS, MOST_NEW_TOKENS = 16, 1024
LENGTH_STEP = 128
SPARE_LENGTH = 1.25
UNKNOWN = "what fits was not found out when this was written; `python -m vlora plan` says it"
WIDTH = 110
"""Characters of a line, its comment included."""
LETTERS_OF_A_TOKEN, BYTES_OF_A_TOKEN = 2, 2
"""Rather too few, of ASCII letters and of other alphabets; digits and signs count one each."""


@attrs.frozen(kw_only=True)
class RowFacts:
    """What rows are like.

    Attributes:
        path: The data set, as `data.path` takes it.
        split: The split to train on; None where there is one only.
        valid_split: Another one to validate on.
        valid_path: A file beside it to validate on.
        image_root: Where their images were found, which are not where the rows' file is.
        objective: What they are learned by, as `train.objective` says it.
        n_rows: Rows to train on.
        columns: What `data.columns` has to map, and to what.
        reasons: Of each column that was guessed, why it is taken for what it is; those included that need no mapping.
        unused: Columns that nothing is read from.
        question: A question for rows that have an image and an answer only.
        answer: The column with the answer of such rows.
        classes: The distinct answers of rows that are classes.
        n_words: Words of the median answer.
        n_answer_tokens: Tokens of the longest answer, by an estimate that is rather too large.
        kind: What most answers are: "text", "boxes" or "json" (objects).
        n_read: Rows that were looked at.
        bad: Why some of the first rows cannot be learned from, as far as their texts and the headers of their images
            say; a run ends at such a row.
    """

    path: str
    split: str | None = None
    valid_split: str | None = None
    valid_path: str | None = None
    image_root: str | None = None
    objective: Literal["sft", "dpo", "kto"] = "sft"
    n_rows: int
    columns: Mapping[str, str] = attrs.field(factory=dict)
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    unused: Sequence[str] = ()
    question: str | None = None
    answer: str | None = None
    classes: Sequence[str] = ()
    n_words: int
    n_answer_tokens: int
    kind: Literal["text", "boxes", "json"] = "text"
    n_read: int
    bad: Sequence[str] = ()

    def with_bad(self, reasons: Sequence[str]) -> "RowFacts":
        """Take note of further reasons why rows cannot be learned from; one for each row, whose name comes first."""
        known = {reason.partition(": ")[0] for reason in self.bad}
        more = {reason.partition(": ")[0]: reason for reason in reasons}
        return attrs.evolve(self, bad=(*self.bad, *(more[row] for row in more if row not in known)))

    @property
    def skips_bad(self) -> bool:
        """Whether the recipe leaves bad rows out."""
        return 0 < len(self.bad) <= MOST_BAD * self.n_read

    def describe_bad(self) -> str:
        """Say how many of the first rows cannot be learned from."""
        return f"of the first rows {with_noun(len(self.bad), 'row', commas=False)} cannot be learned from"


@attrs.frozen(kw_only=True)
class FitFacts:
    """What a model needs for rows on this machine.

    Attributes:
        n_tokens: Tokens of the longest row that was looked at.
        batch_size: Rows that fit at once.
        grad_checkpoint: Whether activations have to be recomputed for that.
        quantize_bits: Whether the weights have to be quantized for that, and to how many bits.
        peak_gb: What a step will need then.
        memory_gb: What the machine has.
        fits: Whether anything did.
        bad: Why further rows cannot be learned from, as the model's template, tokenizer and processor say.
    """

    n_tokens: int
    batch_size: int
    grad_checkpoint: bool = False
    quantize_bits: int | None = None
    peak_gb: float
    memory_gb: float
    fits: bool = True
    bad: Sequence[str] = ()


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text and its end have, without a tokenizer and rather too many."""
    letters = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in text)
    others = sum(character.isascii() for character in text) - letters
    rest = sum(len(character.encode(errors="replace")) for character in text if not character.isascii())
    return math.ceil(letters / LETTERS_OF_A_TOKEN + others + rest / BYTES_OF_A_TOKEN) + 1


def ask_about_classes(classes: Sequence[str]) -> str:
    """Write a question whose answer is one of some classes; they are listed where they are few."""
    if not 1 < len(classes) <= MOST_CLASSES or any(set(name) & set('{}"\\') for name in classes):
        return "What is shown in this image? Answer with its class."
    return f"What is shown in this image? Answer with one of: {', '.join(classes)}."


def suggest_recipe(rows: RowFacts, model: str, fit: FitFacts | str, output: str) -> str:
    """Write a recipe as TOML, with the reason beside every key.

    Args:
        rows: What the rows are like.
        model: The model, as `model.path` takes it.
        fit: What it needs, or why that is not known.
        output: Where the result goes.
    """
    sections: dict[str, list[tuple[str, object, str]]] = {
        "model": [*_write_model(model, fit)],
        "data": [*_write_data(rows, fit)],
        "lora": [("rank", 16, "adapters on all linear layers of the language model"), ("alpha", 32.0, "scaled by 2")],
        "optim": [
            ("learning_rate", *LEARNING_RATES[rows.objective == "sft"]),
            ("schedule", "cosine", ""),
            ("warmup_steps", min(50, max(1, _count_steps(rows, fit) // 20)), "a twentieth of the run"),
            ("grad_clip", 1.0, ""),
        ],
        "train": [*_write_train(rows, fit)],
        "eval": [*_write_eval(rows)],
        "output": [
            ("path", output, ""),
            ("keep_last", 2, "checkpoints that stay while it trains"),
            *([("keep_best", "valid_loss", "the best one has a folder of its own")] if _validates(rows) else []),
        ],
    }
    where = _in_comment(rows.path)
    about = f"# Written for {rows.n_rows:,} rows of {where}, of which the first {rows.n_read:,} were looked at."
    parts = [about, *(_write_section(name, keys) for name, keys in sections.items() if keys)]
    return "\n\n".join(parts) + "\n"


Keys = Iterator[tuple[str, object, str]]


def explain_columns(rows: RowFacts) -> Iterator[str]:
    """Say of each column that was guessed what it is taken for, and why."""
    for name, why in rows.reasons.items():
        yield f"{name!r} is the {rows.columns.get(name, name)}: {why}"


def _write_section(name: str, keys: Sequence[tuple[str, object, str]]) -> str:
    lines = [f"[{name}]"]
    for key, value, why in keys:
        text, comment = f"{key} = {_write_value(value)}", f"# {_in_comment(why)}"
        if not why:
            lines.append(text)
        elif len(text) + len(comment) < WIDTH:
            lines.append(f"{text}  {comment}")
        else:
            lines += [*textwrap.wrap(comment, WIDTH, subsequent_indent="# ", break_long_words=False), text]
    return "\n".join(lines)


def _write_value(value: object) -> str:
    """Write a value in one line; JSON in a string as it is, where that can be."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(tomli_w.dumps({key: item}).strip() for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_write_value, value)) + "]"
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return tomli_w.dumps({"key": value}).strip().removeprefix("key = ")


def _in_comment(text: str) -> str:
    """Put a text into one line of what TOML allows in a comment."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _write_model(model: str, fit: FitFacts | str) -> Keys:
    yield "path", model, "a hub id or a folder"
    if isinstance(fit, str):
        return
    if fit.quantize_bits:
        yield "quantize_bits", fit.quantize_bits, f"to fit into {fit.memory_gb:.1f} GB"


def _write_data(rows: RowFacts, fit: FitFacts | str) -> Keys:
    yield "path", rows.path, f"columns that are not used: {', '.join(rows.unused)}" if rows.unused else ""
    if rows.split is not None:
        yield "split", rows.split, ""
    yield from _write_held_out(rows)
    if rows.image_root is not None:
        yield "image_root", rows.image_root, "the images were found there"
    if rows.question is not None:
        user = [{"type": "image", "image": "{image}"}, rows.question]
        layout = {"user": user, "assistant": f"{{{rows.answer}}}"}
        yield "custom_prompt_format", json.dumps(layout, ensure_ascii=False), "the rows have no question of their own"
    read = ("image", "images", rows.answer)
    columns = {name: what for name, what in rows.columns.items() if rows.question is None or what in read}
    if columns:
        yield "columns", columns, "; ".join([*explain_columns(rows), "change what was guessed wrong"])
    if rows.objective == "sft":
        yield "train_on_completions", True, "learn the answers, not the questions"
    if rows.skips_bad:
        yield "on_bad_row", "skip", f'{rows.describe_bad()}; "raise" ends the run there'
    if isinstance(fit, str):
        return
    length = max(LENGTH_STEP, math.ceil(fit.n_tokens * SPARE_LENGTH / LENGTH_STEP) * LENGTH_STEP)
    yield "max_seq_length", length, f"the longest row that was looked at has {fit.n_tokens:,} tokens"


def _write_held_out(rows: RowFacts) -> Keys:
    if rows.valid_path is not None:
        yield "valid_path", rows.valid_path, "rows that are not trained on"
    elif rows.valid_split is not None:
        yield "valid_split", rows.valid_split, "rows that are not trained on"
    elif _validates(rows):
        share = min(SHARE, MOST_HELD_OUT / rows.n_rows)
        if rows.n_rows * share < 1:
            share = 1 / rows.n_rows
        yield "valid_fraction", round(share, 4), "rows that are not trained on, drawn once"


def _write_train(rows: RowFacts, fit: FitFacts | str) -> Keys:
    if rows.objective != "sft":
        yield "objective", rows.objective, OBJECTIVES[rows.objective]
    batch = _batch_size(rows, fit)
    why = UNKNOWN if isinstance(fit, str) else f"a step needs {fit.peak_gb:.1f} of {fit.memory_gb:.1f} GB by the plan"
    if isinstance(fit, FitFacts) and not fit.fits:
        why = f"even so a step needs {fit.peak_gb:.1f} GB, and there are {fit.memory_gb:.1f}: take a smaller model"
    yield "batch_size", batch, why
    yield (
        "gradient_accumulation_steps",
        _accumulate(rows, batch),
        f"a step learns from {batch * _accumulate(rows, batch)}",
    )
    if isinstance(fit, FitFacts) and fit.grad_checkpoint:
        yield "grad_checkpoint", True, "less memory for some more time"
    yield "epochs", _count_epochs(rows), "passes over the rows"
    every = max(1, _count_steps(rows, fit) // (4 * _count_epochs(rows)))
    yield "steps_per_eval", every, "four times an epoch"
    yield "steps_per_save", every, ""
    yield "steps_per_report", max(1, min(10, every)), ""


def _write_eval(rows: RowFacts) -> Keys:
    # An answer that is not wanted is nothing to measure others by.
    if not _validates(rows) or rows.objective == "kto":
        return
    is_short = rows.n_words <= SHORT_ANSWER
    yield "answer_rows", 50 if is_short else 20, "held-out rows that the model answers before and after"
    wanted = max(FEWEST_NEW_TOKENS, 2 ** math.ceil(math.log2(max(1, rows.n_answer_tokens))))
    fits = wanted <= MOST_NEW_TOKENS
    yield "max_new_tokens", min(MOST_NEW_TOKENS, wanted), "the longest answer fits" if fits else "longer ones are cut"
    if rows.kind != "text":
        yield "metrics", *METRICS_OF[rows.kind]
        return
    metrics = ["exact_match"] if is_short else ["exact_match", "token_f1"]
    yield "metrics", metrics, f"half of the answers have at most {with_noun(rows.n_words, 'word', commas=False)}"


def _validates(rows: RowFacts) -> bool:
    named = rows.valid_path is not None or rows.valid_split is not None
    return named or rows.n_rows >= FEWEST_TO_HOLD_OUT


def _batch_size(rows: RowFacts, fit: FitFacts | str) -> int:
    return max(FEWEST_ROWS_OF_A_BATCH[rows.objective], min(rows.n_rows, 1 if isinstance(fit, str) else fit.batch_size))


def _accumulate(rows: RowFacts, batch: int) -> int:
    return max(1, min(ROWS_OF_A_STEP, rows.n_rows) // batch)


def _count_epochs(rows: RowFacts) -> int:
    return 3 if rows.n_rows <= FEW_ROWS else 2 if rows.n_rows <= MANY_ROWS else 1


def _count_steps(rows: RowFacts, fit: FitFacts | str) -> int:
    batch = _batch_size(rows, fit)
    return max(1, rows.n_rows * _count_epochs(rows) // (batch * _accumulate(rows, batch)))
