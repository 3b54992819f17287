"""First stage of the exchange with PEFT, in vlora's environment: writes adapters, their PEFT folders and their logits.

python -m tests.golden.prepare --work /tmp/golden FAMILY...  # or those of made_side.py
python -m tests.golden.peft_prepare --work /tmp/golden FAMILY...
.venv-reference/bin/python -m tests.golden.peft_reference --work /tmp/golden FAMILY...
python -m tests.golden.peft_table --work /tmp/golden FAMILY...
"""

import vlora  # noqa: F401 - before anything imports mlx: it binds a fast BLAS

# isort: split

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np

from tests.arrays import load_arrays
from vlora import Example, TrainState, collate, init_state, make_optimizer, models
from vlora.adapters.attached import adapter_state_dict
from vlora.build import load_model
from vlora.errors import ModelError, VloraError
from vlora.export.peft import to_peft, write_peft
from vlora.export.saved import open_saved
from vlora.output.checkpoint import save_adapter
from vlora.recipe.schema import DataSection, LoraSection, ModelSection, OptimSection, Recipe
from vlora.train.state import bound_params

from .cases import Array, random_numbers
from .made_side import building, read_rows
from .peft_cases import EXCHANGES, FAMILIES, MOVED, Exchange
from .stages import make_parser


def logits(backbone: models.MlxVlmBackbone, state: TrainState, rows: Sequence[Example]) -> list[Array]:
    """Compute the logits of rows, each alone: f[T, V]."""
    found = []
    for row in rows:
        batch = collate([row])
        with bound_params(backbone.module, state.params), backbone.overrides():
            values = backbone.all_logits(batch.tokens, *backbone.embed(batch)).astype(mx.float32)
        found.append(np.array(values)[0, : len(row.tokens)])
    return found


def make_adapter(model: Path, exchange: Exchange, folder: Path, rows: Sequence[Example]) -> tuple[list[Array], float]:
    """Write an adapter that moves the logits.

    Returns:
        Its logits, and by how much they differ from the base's at most.
    """
    backbone, config = attach(model, exchange)
    state = init_state(backbone, make_optimizer(OptimSection(name="sgd")))
    base = logits(backbone, state, rows)
    spread = 0.02
    while True:
        params = {}
        for name, value in state.params.items():
            draw = random_numbers(name).standard_normal(value.shape, dtype=np.float32)
            params[name] = value + mx.array(draw * np.float32(spread))
        moved = state._replace(params=params)
        found = logits(backbone, moved, rows)
        change = max(float(np.abs(one - other).max()) for one, other in zip(found, base, strict=True))
        if change >= MOVED:
            break
        spread *= 2
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(folder / "adapters.safetensors", adapter_state_dict(backbone.module, moved.params), config)
    return found, change


def attach(model: Path, exchange: Exchange) -> tuple[models.MlxVlmBackbone, dict[str, Any]]:
    """Load the model with a new adapter; groups of layers that the family has not are left out."""
    section = LoraSection(**exchange.lora)
    while True:
        recipe = Recipe(model=ModelSection(path=str(model)), data=DataSection(path="rows"), lora=section)
        try:
            return load_model(recipe, models.find_model(recipe.model))
        except ModelError as error:
            lacking = [group for group in section.targets if f"of the group {group!r}" in str(error)]
            if not lacking or set(section.targets) == set(lacking):
                raise
            section = attrs.evolve(section, targets=tuple(set(section.targets) - set(lacking)))


def prepare(family: str, work: Path) -> None:
    """Write everything of one family."""
    model = work / "model"
    rows = read_rows(family, model)
    report: dict[str, Any] = {}
    for name, exchange in EXCHANGES.items():
        if exchange.instead_of and "refused" not in report[exchange.instead_of]:
            report[name] = {"refused": f"{exchange.instead_of} has it"}
            continue
        folder = work / "exchange" / name
        try:
            found, change = make_adapter(model, exchange, folder / "own", rows)
            adapter = to_peft(open_saved(str(folder / "own")))
            write_peft(adapter, folder / "peft")
        except VloraError as error:
            report[name] = {"refused": str(error)}
            print(f"{family} {name}: {error}", flush=True)
            continue
        arrays = {f"{number}": mx.array(value) for number, value in enumerate(found)}
        mx.save_safetensors(str(folder / "logits.safetensors"), arrays)
        report[name] = {"moved": change, "arrays": len(load_arrays(folder / "peft" / "adapter_model.safetensors"))}
        print(f"{family} {name}: {report[name]}", flush=True)
    (work / "exchange" / "prepared.json").write_text(json.dumps(report))


def main() -> None:
    """Prepare the named families, or all."""
    options = make_parser("peft_prepare", __doc__, "what tests.golden.prepare wrote").parse_args()
    for family in options.families or FAMILIES:
        with building(family):
            prepare(family, options.work / family)


if __name__ == "__main__":
    main()
