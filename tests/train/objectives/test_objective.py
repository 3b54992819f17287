"""An objective that is no sum over tokens: a pairwise one through the compiled, chunked, accumulated step."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import mlx.core as mx
import numpy as np
import pytest

from tests.train.test_loop import as_step
from tests.training import Trainable, make_trainable
from vlora import Batch, Example, collate, collate_packed, make_eval_step, make_train_step, step_gradients
from vlora.data.loader import DataLoader
from vlora.data.measuring import measure_rows
from vlora.data.packing import PackedSteps
from vlora.data.prefetch import WorkerPool
from vlora.data.rows import RowDataset
from vlora.data.sampler import step_batches, steps_per_epoch
from vlora.errors import BatchError, SampleError
from vlora.recipe.schema import DataSection
from vlora.train import chunked_head
from vlora.train.eval_step import evaluate
from vlora.train.loop import TrainLoop
from vlora.train.objectives.objective import Objective
from vlora.train.objectives.sums import sum_by_example, sum_by_group
from vlora.train.state import bound_params
from vlora.types import Sample, Targets

BETA = 0.3

CheckpointFactory = Callable[[str], Path]


def prefer(logprobs: mx.array, targets: Targets) -> tuple[mx.array, mx.array]:
    """DPO (Rafailov et al., 2023, arXiv 2305.18290, equation 7): a sum over the pairs of a microbatch."""
    ratios = sum_by_example(logprobs, targets) - targets.columns["reference"]
    margins = sum_by_group(targets.columns["side"] * ratios, targets)
    is_pair = sum_by_group(targets.example_weights, targets) > 0
    return mx.where(is_pair, mx.logaddexp(0.0, -BETA * margins), 0).sum(), is_pair.sum()


PREFER = Objective(prefer, columns=("side", "reference"))
"""`side` is 1 for the answer that is preferred and -1 for the other one."""


def make_pairs(trainable: Trainable) -> list[list[Example]]:
    """Make pairs of rows: a row's own answer, and the same with other tokens."""
    pairs = []
    for number, example in enumerate(trainable.examples[:3]):
        other = np.where(example.supervised, (example.tokens + 1) % 40, example.tokens).astype(np.int32)
        columns = [{"side": 1.0, "reference": -5.0}, {"side": -1.0, "reference": -4.0}]
        rows = [example, attrs.evolve(example, tokens=other)]
        pairs.append([attrs.evolve(row, columns=own, group=number) for row, own in zip(rows, columns, strict=True)])
    return pairs


def collate_pairs(pairs: Sequence[Sequence[Example]], *, is_packed: bool) -> list[Batch]:
    """Put two pairs into one microbatch, which has rows or examples to spare, and the third into another."""
    first = [*pairs[0], *pairs[1]]
    if is_packed:
        return [collate_packed([first[:1], first[1:]], 3), collate_packed([list(pairs[2])], 3)]
    return [collate(first, 6), collate(list(pairs[2]), 6)]


def whole_logprob(trainable: Trainable, example: Example, params: dict[str, mx.array]) -> mx.array:
    """Sum the log-probabilities of a row's answer: alone, eagerly, from all logits in float32."""
    backbone, batch = trainable.backbone, collate([example])
    with bound_params(backbone.module, params), backbone.overrides():
        logits = backbone.all_logits(batch.tokens, *backbone.embed(batch))[0].astype(mx.float32)
    before = np.flatnonzero(example.supervised[1:])
    rows = logits[mx.array(before)]
    own = mx.take_along_axis(rows, mx.array(example.tokens[before + 1])[:, None], axis=-1)[:, 0]
    return (own - mx.logsumexp(rows, axis=-1)).sum()


def expected_mean(trainable: Trainable, pairs: list[list[Example]], params: dict[str, mx.array]) -> mx.array:
    """The definition: the mean over all pairs."""
    losses = []
    for better, worse in pairs:
        margin = whole_logprob(trainable, better, params) - whole_logprob(trainable, worse, params) + 5.0 - 4.0
        losses.append(-mx.log(mx.sigmoid(BETA * margin)))
    return mx.stack(losses).mean()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("keys", [{}, {"model__full_finetune": True}], ids=["lora", "full"])
def test_a_pairwise_objective_is_its_definition(
    keys: dict[str, bool],
    is_packed: bool,
    compiled: bool,
    checkpoint: CheckpointFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss and gradients of two microbatches, the head in chunks that part pairs, are those of all pairs as a whole."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="sgd", optim__betas=[0.0, 0.0], **keys)
    pairs = make_pairs(trainable)
    batches = collate_pairs(pairs, is_packed=is_packed)
    params = trainable.state.params
    loss, gradients = mx.value_and_grad(lambda params: expected_mean(trainable, pairs, params))(params)
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 3)

    step = make_train_step(trainable.backbone, trainable.optimizer, loss=PREFER, compiled=compiled)
    means, measured = step_gradients(step, trainable.state, batches)
    state, output = step(trainable.state, batches, 1.0)
    sums = [make_eval_step(trainable.backbone, loss=PREFER, compiled=compiled)(trainable.state, b) for b in batches]

    assert (float(output.n_terms), float(measured.n_terms)) == (len(pairs), len(pairs))
    assert float(output.n_supervised) == float(measured.n_supervised) == sum(batch.n_supervised for batch in batches)
    assert float(output.nll_sum / output.n_terms) == pytest.approx(float(loss), rel=1e-5)
    assert sum(float(total) for total, _ in sums) / len(pairs) == pytest.approx(float(loss), rel=1e-5)
    assert float(measured.nll_sum) == float(output.nll_sum)
    assert float(measured.grad_norm) == pytest.approx(float(output.grad_norm), rel=1e-5)
    assert step.n_traces == len({batch.targets.positions.shape for batch in batches}) or not compiled
    for name, wanted in gradients.items():
        scale = max(1e-3, float(mx.abs(wanted).max()))
        for found in (means[name], params[name] - state.params[name]):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=3e-5 * scale, err_msg=name)


def read_steps(batching: str, loader: DataLoader) -> Iterator[list[Batch]]:
    """Read an epoch in steps of two microbatches of two rows."""
    n_rows = len(loader.train)
    if batching == "packed":
        packed = PackedSteps(
            n_rows=n_rows, capacity=96, batch_size=2, accumulation=2, seed=0, shuffle=True, n_steps=None, n_epochs=1
        )
        return loader.pack(loader.train, packed, 1)
    measure = measure_rows(loader, lambda sample: len(sample.turns[-1].text)) if batching == "grouped" else None
    n_steps = steps_per_epoch(n_rows, 2, 2)
    plan = step_batches(n_rows, 2, accumulation=2, seed=0, shuffle=True, n_steps=n_steps, measure=measure)
    return loader.collate(loader.train, plan, 1)


@pytest.mark.parametrize("batching", ["shuffled", "grouped", "packed"])
def test_pairs_stay_together(batching: str, checkpoint: CheckpointFactory) -> None:
    """However rows are batched, a microbatch has whole pairs, but those of bad rows; pairs and tokens are counted."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="sgd", optim__betas=[0.0, 0.0])
    pairs, n_rows, bad = make_pairs(trainable), 8, 5
    table = [{"question": "a", "answer": "b" * (n_rows - number)} for number in range(n_rows)]
    rows = RowDataset(name="rows", table=table, indices=range(n_rows))

    def encode(sample: Sample) -> tuple[Example, ...]:
        number = n_rows - len(sample.turns[-1].text)
        if number == bad:
            msg = "the answer that is not preferred is empty"
            raise SampleError(msg)
        return tuple(attrs.evolve(row, source=sample.source, group=None) for row in pairs[number % 3])

    with WorkerPool(0) as workers:
        data = DataSection(path="-", on_bad_row="skip")
        loader = DataLoader(train=rows, data=data, batch_size=2, examples_per_row=2, workers=workers, encode=encode)
        steps = list(read_steps(batching, loader))
    step = make_train_step(trainable.backbone, trainable.optimizer, loss=PREFER)
    loop = TrainLoop(as_step(step), trainable.state, lambda _: 0.0)
    reports = [report for _, report in loop.run(steps) if report is not None]
    batches = [batch for microbatches in steps for batch in microbatches]
    eval_step = make_eval_step(trainable.backbone, loss=PREFER)

    sources = [[row.source for row in batch.rows] for batch in batches]
    assert max(map(len, sources)) == 4
    assert all(found[::2] == found[1::2] for found in sources)
    assert sorted(source for found in sources for source in found[::2]) == [
        f"rows row {number}" for number in range(n_rows) if number != bad
    ]
    learned = [pairs[number % 3] for number in range(n_rows) if number != bad]
    n_tokens = sum(int(row.supervised.sum()) for pair in learned for row in pair)
    expected = float(expected_mean(trainable, learned, trainable.state.params))
    assert reports[-1].running_loss == pytest.approx(expected, rel=1e-5)
    assert sum(report.n_terms for report in reports) == len(learned)
    assert sum(report.supervised_tokens for report in reports) == n_tokens > 2 * len(learned)
    assert evaluate(eval_step, trainable.state, batches) == pytest.approx((expected, n_tokens), rel=1e-5)
    assert sum(batch.n_groups for batch in batches) == len(learned)


def test_columns_that_are_missing_are_named(checkpoint: CheckpointFactory) -> None:
    """An objective's columns have to be there; the row is named."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    step = make_train_step(trainable.backbone, trainable.optimizer, loss=PREFER)

    with pytest.raises(BatchError, match=r"the objective reads the columns \['side', 'reference'\]"):
        step(trainable.state, collate(trainable.examples), 1.0)


def test_a_policy_reads_a_number_for_each_token(checkpoint: CheckpointFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clipped ratio to the log-probabilities of before, whose weights are the tokens' own."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    rows = [
        attrs.evolve(
            row, columns={"gain": float(number - 1), "old": np.linspace(-9, -1, len(row.tokens), dtype=np.float32)}
        )
        for number, row in enumerate(trainable.examples[:3])
    ]

    def clipped(logprobs: mx.array, targets: Targets) -> tuple[mx.array, mx.array]:
        ratio = mx.exp(logprobs - targets.columns["old"])
        gain = targets.columns["gain"][targets.example]
        surrogate = mx.minimum(ratio * gain, mx.clip(ratio, 0.8, 1.2) * gain)
        return -(surrogate * targets.weights).sum(), targets.weights.sum()

    objective, batch = Objective(clipped, columns=("gain", "old")), collate(rows, 4)
    head, trainable.backbone.head = trainable.backbone.head, None
    step = make_train_step(trainable.backbone, trainable.optimizer, loss=objective, compiled=False)
    expected, measured = step_gradients(step, trainable.state, batch)
    trainable.backbone.head = head
    monkeypatch.setattr(chunked_head, "HEAD_BYTES", 0)
    monkeypatch.setattr(chunked_head, "FEWEST_HEAD_ROWS", 3)
    step = make_train_step(trainable.backbone, trainable.optimizer, loss=objective)
    found, output = step_gradients(step, trainable.state, batch)

    assert float(output.nll_sum) == pytest.approx(float(measured.nll_sum), rel=1e-5)
    assert any(float(mx.abs(value).max()) > 0 for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-4, atol=1e-6 + 1e-5 * float(mx.abs(value).max()), err_msg=name
        )
