"""The kinds of runs that are killed: a few steps of the built-in model on a few pictures of noise."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from PIL import Image

OUTPUT, FEATURES = "out", "features"
"""Folders of a run, in the folder that it is started in: no path of the machine's is in what it writes."""

RECIPE_NAME = "run.toml"
ROWS_NAME = "rows.jsonl"
PAIRS_NAME = "pairs.jsonl"
PARTS = "part-{}.jsonl"
"""Names of the files among which the rows are divided for streams."""

N_PARTS = 3
TAR_NAME = "pictures.tar"

N_ROWS = 12
"""Three steps of an epoch, so that every run begins a second one."""

COMMON = """
[model]
path = "builtin:tiny-qwen3-vl"
{model}
[data]
train_on_completions = true
workers = 2
prefetch = 2
{rows}
{data}
[features]
{features}
[lora]
{lora}
[train]
batch_size = 4
iters = {iters}
steps_per_report = 1
steps_per_save = 1
steps_per_eval = {steps_per_eval}
val_batches = 1
{train}
[eval]
answer_rows = {answer_rows}
max_new_tokens = 2

[output]
path = "{output}"
{kept}
"""

LORA = "rank = 4\ndropout = 0.1"
OFF = "cache = false"


@attrs.frozen(kw_only=True)
class Mode:
    """A kind of run.

    Attributes:
        name: What it is called.
        recipe: Its recipe.
        before: The recipe of a run that has been in its folder before; None if there was none.
    """

    name: str
    recipe: str
    before: str | None = None

    def prepare(self, slot: Path) -> None:
        """Write the recipe into a folder."""
        (slot / RECIPE_NAME).write_text(self.recipe, encoding="utf-8")


def write_rows(slot: Path) -> None:
    """Write rows of pictures of two sizes and answers of several lengths into a folder, as pairs and streams, too."""
    draw = np.random.default_rng(0)
    lines, pairs = [], []
    for number in range(N_ROWS):
        side = 24 + 16 * (number % 2)
        Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(slot / f"{number}.png")
        answer = " ".join(["seven", "is", "the", "digit", "here"][: 1 + number % 5])
        lines.append({"image": f"{number}.png", "question": "Which digit?", "answer": answer})
        pairs.append({"image": f"{number}.png", "prompt": "Which digit?", "chosen": answer, "rejected": "no digit"})
    parts = [(PARTS.format(number), lines[number::N_PARTS]) for number in range(N_PARTS)]
    for name, own in ((ROWS_NAME, lines), (PAIRS_NAME, pairs), *parts):
        (slot / name).write_text("".join(f"{json.dumps(line)}\n" for line in own), encoding="utf-8")
    _write_tar(slot, lines)


def _write_tar(slot: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a WebDataset."""
    with tarfile.open(slot / TAR_NAME, "w") as tar:
        for number, line in enumerate(lines):
            row = {key: value for key, value in line.items() if key != "image"}
            members = {"json": json.dumps(row).encode(), "png": (slot / line["image"]).read_bytes()}
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _recipe(**parts: str) -> str:
    defaults = {
        "model": "",
        "data": "",
        "features": OFF,
        "lora": "",
        "train": "",
        "answer_rows": "0",
        "rows": f'path = "{ROWS_NAME}"',
        "iters": "4",
        "steps_per_eval": "2",
        "kept": "",
    }
    return COMMON.format(**{**defaults, "output": OUTPUT, **parts})


def _choosing(**parts: str) -> str:
    """Write the recipe of a run that gets worse, and stops early."""
    return _recipe(
        data=f'valid_path = "{ROWS_NAME}"',
        train="early_stopping_patience = 2\n[optim]\nlearning_rate = 0.01",
        iters="14",
        steps_per_eval="1",
        kept='keep_last = 1\nkeep_best = "valid_loss"',
        **parts,
    )


def _comparing(objective: str, section: str = "", **parts: str) -> str:
    """Write the recipe of a run that learns from pairs."""
    return _recipe(
        lora="rank = 4",
        rows=f'path = "{PAIRS_NAME}"',
        data=f'valid_path = "{PAIRS_NAME}"',
        train=f'objective = "{objective}"\n[preference]\n{section}',
        **parts,
    )


STREAMED = f'path = "{PARTS.format("*")}"\nstreaming = true\nshuffle_buffer = 5'
"""Keys of [data]: files of four rows, whose buffer holds rows of two of them."""

STREAMED_MIXTURE = f"""streaming = true
shuffle_buffer = 3
[[data.sources]]
path = "{PARTS.format("*")}"
weight = 2
[[data.sources]]
path = "{TAR_NAME}"
weight = 1"""
"""Keys of [data], the last ones of it."""

KEPT = f'path = "{FEATURES}"\ndisk_gb = 0.1'

MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(name="lora", recipe=_recipe(lora=LORA, data=f'valid_path = "{ROWS_NAME}"', answer_rows="2")),
        Mode(name="chosen", recipe=_choosing(lora=LORA)),
        Mode(name="chosen-full", recipe=_choosing(model="full_finetune = true")),
        Mode(
            name="full",
            recipe=_recipe(model="full_finetune = true\ntrain_vision = true", lora=""),
        ),
        Mode(
            name="packed",
            recipe=_recipe(lora=LORA, data="max_seq_length = 128", train='batching = "packed"\npack_length = 128'),
        ),
        Mode(
            name="grouped",
            recipe=_recipe(lora=LORA, train='batching = "grouped"\ngradient_accumulation_steps = 2'),
        ),
        Mode(name="features", recipe=_recipe(lora=LORA, features=KEPT)),
        Mode(name="dpo", recipe=_comparing("dpo", 'loss = ["sigmoid", "bco_pair", "sft"]')),
        Mode(name="dpo-kept", recipe=_comparing("dpo", "precompute = true", features=KEPT)),
        Mode(name="kto", recipe=_comparing("kto")),
        Mode(
            name="kto-packed",
            recipe=_recipe(
                lora="rank = 4",
                rows=f'path = "{PAIRS_NAME}"',
                data="max_seq_length = 128",
                train='objective = "kto"\nbatching = "packed"',
            ),
        ),
        Mode(name="orpo", recipe=_comparing("orpo")),
        Mode(name="simpo", recipe=_comparing("cpo", 'loss = ["simpo"]\nbeta = 2.0\nnll_weight = 0.0')),
        Mode(name="streamed", recipe=_recipe(lora=LORA, rows=STREAMED, data=f'valid_path = "{ROWS_NAME}"')),
        Mode(
            name="streamed-grouped",
            recipe=_recipe(lora=LORA, rows=STREAMED, train='batching = "grouped"\ngradient_accumulation_steps = 2'),
        ),
        Mode(
            name="streamed-packed",
            recipe=_recipe(
                lora=LORA,
                rows=STREAMED,
                data="max_seq_length = 128",
                train='batching = "packed"\npack_length = 128',
            ),
        ),
        Mode(name="streamed-mixture", recipe=_recipe(lora=LORA, data=STREAMED_MIXTURE, rows="")),
        Mode(
            name="streamed-kto",
            recipe=_recipe(
                lora="rank = 4",
                rows=f'path = "{PAIRS_NAME}"\nstreaming = true\nshuffle_buffer = 5',
                train='objective = "kto"',
            ),
        ),
        Mode(
            name="again",
            recipe=_recipe(lora=f"{LORA}\nalpha = 3.0", train="seed = 1", output=f"{OUTPUT}/second.safetensors"),
            before=_recipe(lora=LORA, output=f"{OUTPUT}/first.safetensors"),
        ),
    )
}
