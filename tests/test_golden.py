"""Losses, gradient norms and adapters against transformers + PEFT; tests/golden/generate.py made the numbers."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from vlora import (
    Batch,
    Example,
    StepOutput,
    TrainState,
    backend,
    collate,
    init_state,
    make_optimizer,
    make_train_step,
)
from vlora.recipe import LoraSection, ModelSection, OptimSection

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("qwen2_vl", "llava")
RUNS = ("plain", "accumulated")


def read_examples(family: str) -> list[Example]:
    """Read a family's rows as examples."""
    arrays = {name: np.array(value) for name, value in mx.load(str(GOLDEN / family / "rows.safetensors")).items()}
    n_rows = 1 + max(int(name.partition(".")[0]) for name in arrays)
    examples = []
    for row in range(n_rows):
        own = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith(f"{row}.")}
        tokens, supervised = (
            own.pop("input_ids").astype(np.int32),
            own.pop("supervised").astype(bool),
        )
        examples.append(
            Example(
                source=f"row {row}",
                tokens=tokens,
                supervised=supervised,
                placeholders=np.zeros(len(tokens), dtype=bool),
                inputs=own,
            )
        )
    return examples


def golden_adapter(family: str, run: str, moment: str) -> dict[str, mx.array]:
    """Read a stored adapter under vlora's names: PEFT's A is [R, inputs], B is [outputs, R]."""
    arrays = mx.load(str(GOLDEN / family / f"{run}.safetensors"))
    return {
        name.removeprefix(f"{moment}.").replace("lora_A", "lora_a").replace("lora_B", "lora_b"): value.T
        for name, value in arrays.items()
        if name.startswith(f"{moment}.")
    }


def train(
    family: str, run: str, *, grad_checkpoint: bool = False
) -> tuple[dict[str, Any], TrainState, list[StepOutput]]:
    """Repeat a stored run."""
    golden = json.loads((GOLDEN / family / f"{run}.json").read_text())
    section = ModelSection(path=str(GOLDEN / family / "model"))
    backbone, _ = backend.load_backbone(backend.find_model(section), section)
    lora = LoraSection(rank=golden["rank"], alpha=golden["alpha"])
    backend.add_lora(backbone, lora, seed=0, quantized={})
    optimizer = make_optimizer(
        OptimSection(
            name=golden["optimizer"].lower(),
            learning_rate=golden["lr"],
            betas=tuple(golden["betas"]),
            eps=golden["eps"],
            weight_decay=golden["weight_decay"] or 0.0,
        )
    )
    state = init_state(backbone, optimizer)
    initial = golden_adapter(family, run, "initial")
    assert set(initial) == set(state.params)
    state = state._replace(params=initial)
    step = make_train_step(backbone, optimizer, max_grad_norm=golden["max_norm"], grad_checkpoint=grad_checkpoint)
    examples = read_examples(family)
    outputs = []
    for microbatches in golden["microbatches"]:
        batches: list[Batch] = [collate([examples[row] for row in rows], 2) for rows in microbatches]
        state, output = step(state, batches, golden["lr"])
        mx.eval(state, output)
        outputs.append(output)
    return golden, state, outputs


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_numbers_as_peft(family: str, run: str) -> None:
    """Ten steps give PEFT's losses within 1e-4, its gradient norms, and its adapters within 1e-3."""
    golden, state, outputs = train(family, run)
    losses = [float(output.nll_sum / output.n_supervised) for output in outputs]
    norms = [float(output.grad_norm) for output in outputs]

    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=1e-4)
    final, initial = golden_adapter(family, run, "final"), golden_adapter(family, run, "initial")
    for name, expected in final.items():
        moved = np.linalg.norm(np.array(expected - initial[name]))
        error = np.linalg.norm(np.array(state.params[name] - expected))
        assert error <= 1e-3 * moved, name


def test_checkpointing_changes_no_number() -> None:
    """Recomputed activations give the same losses and adapters as kept ones."""
    _, kept, outputs = train("qwen2_vl", "accumulated")
    _, recomputed, again = train("qwen2_vl", "accumulated", grad_checkpoint=True)

    assert [float(o.nll_sum) for o in outputs] == pytest.approx([float(o.nll_sum) for o in again], rel=1e-6)
    for name, value in kept.params.items():
        np.testing.assert_allclose(np.array(value), np.array(recomputed.params[name]), atol=1e-5)
