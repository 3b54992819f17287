"""The reference of a step is the model that training starts from, computed within the step; nothing is loaded twice."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.train.objectives.test_objective import whole_logprob
from tests.training import Trainable, make_trainable
from vlora import (
    Batch,
    Example,
    Targets,
    bind,
    collate,
    collate_packed,
    make_eval_step,
    make_train_step,
    step_gradients,
)
from vlora.adapters.attached import lora_layers
from vlora.errors import BatchError
from vlora.recipe.preference import PreferenceSection
from vlora.train import chunked_head
from vlora.train.eval_step import make_measuring_step
from vlora.train.objectives.preference import PREFERRED, REFERENCE, REFERENCE_REST, make_preference_objective
from vlora.train.reference import Reference, can_be_taken_back
from vlora.types import Inputs

CheckpointFactory = Callable[[str], Path]
ROOT = Path(__file__).parents[2]
DPO = make_preference_objective("dpo", PreferenceSection(loss=("sigmoid", "ipo"), weights=(1.0, 0.01), beta=0.3))


def make_pairs(trainable: Trainable) -> list[list[Example]]:
    """Make pairs of rows: a row's own answer, and the same with other tokens."""
    pairs = []
    for number, example in enumerate(trainable.examples[:3]):
        other = np.where(example.supervised, (example.tokens + 1) % 40, example.tokens).astype(np.int32)
        rows = [example, attrs.evolve(example, tokens=other)]
        pairs.append(
            [
                attrs.evolve(row, columns={PREFERRED: side}, group=number)
                for row, side in zip(rows, (1.0, 0.0), strict=True)
            ]
        )
    return pairs


def base_logprob(trainable: Trainable, example: Example, start: dict[str, mx.array]) -> float:
    """Sum the log-probabilities of an answer in the model that training starts from, eagerly from all logits."""
    return float(whole_logprob(trainable, example, start))


def expected_mean(
    trainable: Trainable, pairs: list[list[Example]], start: dict[str, mx.array], params: Any
) -> mx.array:
    """The definition, written down once more: the mean over all pairs."""
    losses = []
    for pair in pairs:
        c, r = (whole_logprob(trainable, row, params) - base_logprob(trainable, row, start) for row in pair)
        n_c, n_r = (int(row.supervised[1:].sum()) for row in pair)
        sigmoid = -mx.log(mx.sigmoid(0.3 * (c - r)))
        losses.append(sigmoid + 0.01 * (c / n_c - r / n_r - 1 / 0.6) ** 2)
    return mx.stack(losses).mean()


def batches_of(pairs: list[list[Example]], *, is_packed: bool) -> list[Batch]:
    """Put two pairs into one microbatch and the third into another."""
    first = [*pairs[0], *pairs[1]]
    if is_packed:
        return [collate_packed([first[:1], first[1:]], 3), collate_packed([list(pairs[2])], 3)]
    return [collate(first, 6), collate(list(pairs[2]), 6)]


KEYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"lora__method": "dora"},
    "pissa": {"lora__init": "pissa", "lora__rank": 4},
    "4 bit": {"model__quantize_bits": 4, "model__quantize_group_size": 32},
    "recomputed": {"train__grad_checkpoint": True},
}


@pytest.mark.parametrize(
    "keys",
    [keys if name in ("lora", "pissa") else pytest.param(keys, marks=pytest.mark.slow) for name, keys in KEYS.items()],
    ids=KEYS,
)
def test_a_live_reference_is_the_base(
    keys: dict[str, Any], checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of DPO in the compiled step with a chunked head are those of the definition."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="sgd", optim__betas=[0.0, 0.0], **keys)
    pairs = make_pairs(trainable)
    is_recomputed = trainable.recipe.train.grad_checkpoint
    batches = batches_of(pairs, is_packed=is_recomputed)
    # The trained parameters of the tests are not those at the start: adapters are random. PiSSA's start is kept.
    start = {**trainable.state.params}
    for name, layer in lora_layers(trainable.backbone.module):
        held = layer._start
        for factor in ("lora_a", "lora_b"):
            own = start[f"{name}.{factor}"]
            blank = mx.zeros_like(own) if factor == "lora_b" else own
            start[f"{name}.{factor}"] = blank if held is None else held[factor == "lora_b"]
        if f"{name}.m" in start:
            start[f"{name}.m"] = mx.sqrt(layer._squares)
    params = trainable.state.params
    loss, gradients = mx.value_and_grad(lambda values: expected_mean(trainable, pairs, start, values))(params)
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 3)

    reference = Reference(trainable.backbone)
    step = make_train_step(
        trainable.backbone, trainable.optimizer, loss=DPO, reference=reference, grad_checkpoint=is_recomputed
    )
    means, measured = step_gradients(step, trainable.state, batches)

    assert float(measured.nll_sum / measured.n_terms) == pytest.approx(float(loss), rel=2e-5)
    for name, wanted in gradients.items():
        scale = max(1e-3, float(mx.abs(wanted).max()))
        np.testing.assert_allclose(means[name], wanted, rtol=2e-3, atol=1e-4 * scale, err_msg=name)
    assert not any(layer._is_off for _, layer in lora_layers(trainable.backbone.module))


def test_a_copy_of_an_adapter_is_the_reference_where_a_run_goes_on_from_one(checkpoint: CheckpointFactory) -> None:
    """With a frozen copy the margins are none at the start, and those to the copy afterwards; brought columns agree."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="sgd", optim__betas=[0.0, 0.0])
    pairs, params = make_pairs(trainable), trainable.state.params
    (batch, _) = batches_of(pairs, is_packed=False)
    reference = Reference.of_start(trainable.backbone, params, are_adapters_new=False)
    step = make_measuring_step(trainable.backbone, loss=DPO, reference=reference)
    changed = trainable.state._replace(params={name: 1.5 * value for name, value in params.items()})

    _, _, before = step(trainable.state, batch)
    total, count, after = step(changed, batch)
    columns = [
        attrs.evolve(row, columns={**row.columns, REFERENCE: base_logprob(trainable, row, params)})
        for row in batch.rows
    ]
    brought = make_eval_step(trainable.backbone, loss=DPO)(changed, collate(columns, 6))

    assert float(before["rewards/margins"][0]) == pytest.approx(0.0, abs=1e-5)
    assert abs(float(after["rewards/margins"][0])) > 1e-3
    assert [float(value) for value in brought] == pytest.approx([float(total), float(count)], rel=1e-5)


def test_what_cannot_be_taken_back(checkpoint: CheckpointFactory) -> None:
    """Only adapters of the language model are switched off within a step."""
    found = {
        name: can_be_taken_back(made.backbone, made.state.params)
        for name, made in (
            ("lora", make_trainable(checkpoint("qwen3_vl"))),
            ("full", make_trainable(checkpoint("qwen3_vl"), model__full_finetune=True)),
            ("tower", make_trainable(checkpoint("qwen3_vl"), model__train_vision=True)),
            ("head", make_trainable(checkpoint("qwen3_vl"), lora__train_head=True)),
        )
    }

    assert found == {"lora": True, "full": False, "tower": False, "head": False}


def test_without_a_reference_the_row_is_named(checkpoint: CheckpointFactory) -> None:
    """Rows have to bring what no reference computes."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    step = make_train_step(trainable.backbone, trainable.optimizer, loss=DPO)

    with pytest.raises(BatchError, match=r"row 0: the objective reads the columns \['reference'\]"):
        step(trainable.state, batches_of(make_pairs(trainable), is_packed=False)[0], 1.0)


FRESH = """
import json, sys
import vlora
import mlx.core as mx
from vlora import TrainState, models
from vlora.recipe.schema import ModelSection
from tests.train.test_reference import own_batch
from vlora.train.reference import make_reference_step
section = ModelSection(path=sys.argv[1])
backbone, _ = models.load_backbone(models.find_model(section), section)
backbone.module.freeze()
print(json.dumps(make_reference_step(backbone)(TrainState({}, {}, mx.array(0)), own_batch(sys.argv[1])).tolist()))
"""


def own_batch(folder: str) -> Batch:
    """Make the pairs that both processes compare."""
    return collate([row for pair in make_pairs(make_trainable(Path(folder))) for row in pair], 6)


def add_parts(sums: Any) -> Any:
    """Add the two parts of the sums of six examples in double precision."""
    return np.asarray(sums, dtype=np.float64).sum(axis=0)[:6]


@pytest.mark.slow
def test_after_fifty_steps_the_live_reference_is_the_base_in_a_fresh_process(checkpoint: CheckpointFactory) -> None:
    """Its log-probabilities are those of the model opened without adapters, though the adapters have moved."""
    folder = str(checkpoint("qwen3_vl"))
    trainable, batch = make_trainable(Path(folder), optim__learning_rate=1e-2), own_batch(folder)
    backbone, reference = trainable.backbone, Reference(trainable.backbone)
    step = make_train_step(backbone, trainable.optimizer, loss=DPO, reference=reference)
    state, losses = trainable.state, []
    for _ in range(50):
        state, output = step(state, batch, 1e-2)
        losses.append(float(output.nll_sum / output.n_terms))
    bind(backbone, state)

    def find(inputs: Inputs, targets: Targets) -> mx.array:
        with backbone.overrides():
            columns = reference.completed(inputs, targets)[1].columns
            return mx.stack([columns[REFERENCE], columns[REFERENCE_REST]])

    live = mx.compile(find)(Inputs(batch.tokens, *backbone.embed(batch)), batch.targets)
    fresh = subprocess.run([sys.executable, "-c", FRESH, folder], capture_output=True, text=True, check=True, cwd=ROOT)

    assert losses[-1] < losses[0]
    np.testing.assert_allclose(add_parts(np.asarray(live)), add_parts(json.loads(fresh.stdout)), rtol=0, atol=1e-6)
