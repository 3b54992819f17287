"""The step on tiny real models of every proven family, and its accounting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.checkpoints import FAMILIES as BUILT
from tests.training import Trainable, make_trainable
from tests.usual import USUAL, usual, usual_unproved
from vlora import (
    Batch,
    Example,
    TrainState,
    collate,
    init_state,
    make_eval_step,
    make_optimizer,
    make_train_step,
)
from vlora.models.families.registry import FAMILIES, describe_family
from vlora.models.forward.calls import call_language_model, embed_alone
from vlora.recipe.schema import OPTIMIZERS
from vlora.train.state import bound_params

PROVEN = tuple(name for name, family in FAMILIES.items() if family.is_proven)
GENERIC = tuple(name for name in BUILT if name not in PROVEN)
DENSE = tuple(name for name in PROVEN if name not in ("qwen3_vl_moe", "deepseek_vl_v2", "gemma4"))
"""Families whose loss is smooth: where experts are chosen, a difference quotient jumps. Gemma 4 reads the entry of the
padding token, which is not trained."""
KINDS = {name: describe_family(str(spec.files["config.json"]["model_type"])) for name, spec in BUILT.items()}
UPSTREAM = tuple(
    name
    for name in (*PROVEN, *GENERIC)
    if KINDS[name].forward.embed is embed_alone
    and KINDS[name].forward.forward is call_language_model
    and name not in ("kimi_vl", "qwen3_vl_moe", "glm4v")  # their towers are corrected
)
"""Families whose rows mlx-vlm itself embeds and runs right, one at a time; tests/golden has the others."""
RATE = 1e-2

CheckpointFactory = Callable[[str], Path]


def nll(trainable: Trainable, batch: Batch, *, compiled: bool = False) -> float:
    """Sum a batch's loss."""
    return float(make_eval_step(trainable.backbone, compiled=compiled)(trainable.state, batch)[0])


def logits(trainable: Trainable, examples: list[Example]) -> np.ndarray:
    """Compute a batch's logits with the trained parameters."""
    batch = collate(examples)
    backbone = trainable.backbone
    with bound_params(backbone.module, trainable.state.params), backbone.overrides():
        return np.array(backbone.all_logits(batch.tokens, *backbone.embed(batch)))


def changes(before: TrainState, after: TrainState) -> dict[str, float]:
    """Largest change of every parameter."""
    return {name: float(mx.abs(after.params[name] - value).max()) for name, value in before.params.items()}


def test_proven_families_are_built() -> None:
    """Every family that skips the probes at start-up has a checkpoint that these tests run on."""
    assert set(PROVEN) <= set(BUILT)
    assert set(BUILT) >= USUAL


@pytest.mark.parametrize("family", usual_unproved([*PROVEN, *GENERIC]))
def test_company_and_padding_change_nothing(family: str, checkpoint: CheckpointFactory) -> None:
    """A row's loss is the same alone, padded beside rows of other lengths and images, and beside filler rows."""
    trainable = make_trainable(checkpoint(family))
    alone = [nll(trainable, collate([example])) for example in trainable.examples]
    together = nll(trainable, collate(trainable.examples, 4), compiled=True)
    backwards = nll(trainable, collate(trainable.examples[::-1]))

    assert together == pytest.approx(sum(alone), rel=1e-5)
    assert backwards == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.parametrize("family", usual_unproved([*PROVEN, *GENERIC]))
def test_no_token_sees_a_later_one(family: str, checkpoint: CheckpointFactory) -> None:
    """Another token leaves every earlier logit as it was; the last one is not read at all."""
    trainable = make_trainable(checkpoint(family))
    for example in trainable.examples:
        tokens = example.tokens.copy()
        tokens[-2] = tokens[-3] if tokens[-2] != tokens[-3] else tokens[-4]
        changed = attrs.evolve(example, tokens=tokens)
        before, after = logits(trainable, [example])[0], logits(trainable, [changed])[0]
        last = len(tokens) - 2

        np.testing.assert_allclose(before[:last], after[:last], atol=1e-5)
        assert np.abs(before[last] - after[last]).max() > 1e-3


@pytest.mark.parametrize("family", usual(UPSTREAM))
def test_logits_are_the_model_own(family: str, checkpoint: CheckpointFactory) -> None:
    """The batched logits of an image row are those of the model called on that row alone, with its processor output."""
    trainable = make_trainable(checkpoint(family))
    example = trainable.examples[0]
    module = trainable.backbone.module
    inputs = trainable.backbone.family.forward.fix_inputs(dict(example.inputs))
    arrays = {name: mx.array(value) for name, value in inputs.items() if isinstance(value, np.ndarray)}
    tokens = mx.array(example.tokens)[None]
    with bound_params(module, trainable.state.params):
        features = module.get_input_embeddings(tokens, arrays.pop("pixel_values"), mask=mx.ones_like(tokens), **arrays)
        fields = {name: value for name, value in features.to_dict().items() if value is not None}
        own = np.array(module.language_model(tokens, mask=None, cache=None, **fields).logits)[0]
    batched = logits(trainable, trainable.examples)[0, : len(example.tokens) - 1]

    np.testing.assert_allclose(batched, own[:-1], atol=2e-5)


@pytest.mark.parametrize("family", usual_unproved([*PROVEN, *GENERIC]))
def test_compiled_equals_eager(family: str, checkpoint: CheckpointFactory) -> None:
    """Compiled, eager, checkpointed and accumulated steps give the same update, and every adapter moves."""
    trainable = make_trainable(checkpoint(family))
    batch = collate(trainable.examples, 4)
    rows = [collate([example]) for example in trainable.examples]
    options: tuple[dict[str, Any], ...] = ({}, {"compiled": False}, {"grad_checkpoint": True})
    steps = [make_train_step(trainable.backbone, trainable.optimizer, **option) for option in options]
    results = [step(trainable.state, batch, RATE) for step in steps]
    results.append(steps[1](trainable.state, rows, RATE))
    mx.eval(results)
    (state, output), *others = results

    assert min(changes(trainable.state, state).values()) > 0
    for other_state, other in others:
        assert float(other.nll_sum) == pytest.approx(float(output.nll_sum), rel=1e-5)
        assert float(other.grad_norm) == pytest.approx(float(output.grad_norm), rel=1e-4)
        for name, value in state.params.items():
            # Adam's first step is the gradient's sign: compare where it is not noise.
            close = np.isclose(np.array(value), np.array(other_state.params[name]), atol=RATE / 10)
            assert close.mean() > 0.99, name


@pytest.mark.parametrize("family", usual_unproved([*PROVEN, *GENERIC]))
def test_quantized_base_trains(family: str, checkpoint: CheckpointFactory) -> None:
    """On a 4-bit base every adapter gets a finite gradient, and compiled equals eager."""
    trainable = make_trainable(checkpoint(family), model__quantize_bits=4, model__quantize_group_size=32)
    batch = collate(trainable.examples, 4)
    results = [
        make_train_step(trainable.backbone, trainable.optimizer, compiled=compiled)(trainable.state, batch, RATE)
        for compiled in (True, False)
    ]
    (state, output), (_, eager) = results
    moved = changes(trainable.state, state)

    assert float(output.grad_norm) == pytest.approx(float(eager.grad_norm), rel=1e-3)
    assert np.isfinite(list(moved.values())).all()
    assert min(moved.values()) > 0


@pytest.mark.parametrize("family", usual_unproved(DENSE))
def test_full_finetuning_with_vision(family: str, checkpoint: CheckpointFactory) -> None:
    """The gradient of every parameter, tower and embeddings included, is that of the whole model at once."""
    trainable = make_trainable(checkpoint(family), model__full_finetune=True, model__train_vision=True)
    backbone, state = trainable.backbone, trainable.state
    batch = collate(trainable.examples, 4)
    sgd = make_optimizer(attrs.evolve(trainable.recipe.optim, name="sgd", betas=(0.0, 0.0)))
    start = init_state(backbone, sgd)
    step = make_train_step(backbone, sgd)
    after, output = step(start, batch, 1.0)
    count = float(output.n_supervised)
    found = {name: np.array(value - after.params[name]) * count for name, value in state.params.items()}
    # A directional derivative by central differences, in a random direction over all parameters.
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in state.params.items()}
    size = 2e-4
    ends = []
    for sign in (1, -1):
        params = {name: value + sign * size * mx.array(direction[name]) for name, value in state.params.items()}
        trainable.state = state._replace(params=params)
        ends.append(nll(trainable, batch))
    expected = (ends[0] - ends[1]) / (2 * size)
    derivative = sum(float((found[name] * direction[name]).sum()) for name in found)

    assert derivative == pytest.approx(expected, rel=0.05, abs=0.5)
    tower = {name for name in found if "vision" in name and np.abs(found[name]).max() > 0}
    assert len(tower) > 10
    assert np.abs(found[f"{backbone.language_prefix}.model.embed_tokens.weight"]).max() > 0


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "deepseek_vl_v2"])
def test_full_finetuning_of_experts(family: str, checkpoint: CheckpointFactory) -> None:
    """Mixtures of experts train as a whole too: experts, routers, embeddings and the tower move."""
    trainable = make_trainable(checkpoint(family), model__full_finetune=True, model__train_vision=True)
    batch = collate(trainable.examples, 4)
    state, output = make_train_step(trainable.backbone, trainable.optimizer)(trainable.state, batch, RATE)
    moved = changes(trainable.state, state)

    assert np.isfinite(float(output.grad_norm))
    for part in ("switch_mlp", "gate.weight", "embed_tokens", "vision"):
        assert max(value for name, value in moved.items() if part in name) > 0, part


def test_one_trace_per_bucket(checkpoint: CheckpointFactory) -> None:
    """A run traces once per bucket, whatever lengths, images, row counts and learning rates it meets."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    step = make_train_step(trainable.backbone, trainable.optimizer)
    state, shapes = trainable.state, set()
    short, long, text = (trainable.examples[0], trainable.examples[1], trainable.examples[2])
    for number, rows in enumerate([[short], [text], [short, text], [long], [long, short], [text, long], [short]]):
        batch = collate(rows, 2)
        shapes.add((batch.tokens.shape, batch.targets.positions.shape))
        state, output = step(state, batch, RATE / (number + 1))
        mx.eval(state, output)

    assert step.n_traces == len(shapes) < 7


def test_the_model_is_left_as_it_was(checkpoint: CheckpointFactory) -> None:
    """After a step, also one that fails while it is traced, the model holds its own arrays and answers as before."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    batch = collate(trainable.examples)
    before = dict(tree_flatten(trainable.backbone.module.parameters()))
    reference = nll(trainable, batch)

    def broken(*_: mx.array) -> tuple[mx.array, mx.array]:
        msg = "broken loss"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="broken loss"):
        make_train_step(trainable.backbone, trainable.optimizer, loss=broken)(trainable.state, batch, RATE)
    make_train_step(trainable.backbone, trainable.optimizer)(trainable.state, batch, RATE)
    after = dict(tree_flatten(trainable.backbone.module.parameters()))

    assert all(after[name] is value or bool((after[name] == value).all()) for name, value in before.items())
    assert nll(trainable, batch) == reference


def test_masked_tokens_have_no_gradient(checkpoint: CheckpointFactory) -> None:
    """What is not supervised does not count: other prompt targets give the same gradient."""
    trainable = make_trainable(checkpoint("llava"))
    example = trainable.examples[2]
    supervised = np.zeros_like(example.supervised)
    supervised[-3] = True
    step = make_train_step(trainable.backbone, trainable.optimizer, compiled=False)
    outputs = []
    for length in (len(example.tokens) - 2, len(example.tokens)):
        cut = attrs.evolve(example, tokens=example.tokens[:length], supervised=supervised[:length])
        outputs.append(step(trainable.state, collate([cut]), RATE)[1])

    assert float(outputs[0].n_supervised) == 1
    assert float(outputs[0].grad_norm) == pytest.approx(float(outputs[1].grad_norm), rel=1e-5)


def test_bfloat16_stays_bfloat16(checkpoint: CheckpointFactory) -> None:
    """Float32 adapters on a bfloat16 base leave its activations in bfloat16."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    module = trainable.backbone.module
    module.update({"language_model": _cast(module.language_model)})
    batch = collate(trainable.examples)
    with trainable.backbone.overrides():
        out = trainable.backbone.all_logits(batch.tokens, *trainable.backbone.embed(batch))
    step = make_train_step(trainable.backbone, trainable.optimizer, compiled=False)
    state, output = step(trainable.state, batch, RATE)

    assert out.dtype == mx.bfloat16
    assert all(value.dtype == mx.float32 for value in state.params.values())
    assert np.isfinite(float(output.grad_norm))


def _cast(language_model: object) -> dict[str, object]:
    from mlx.utils import tree_map_with_path

    def cast(name: str, value: mx.array) -> mx.array:
        return value if "lora_" in name else value.astype(mx.bfloat16)

    tree: dict[str, object] = tree_map_with_path(cast, language_model.parameters())  # type: ignore[attr-defined]
    return tree


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_its_own(name: str, checkpoint: CheckpointFactory) -> None:
    """A parameter with three times the rate moves as in a run with three times the rate; the others do not notice."""
    trainable = make_trainable(checkpoint("qwen3_vl"), lora__targets=["q_proj"], optim__name=name)
    batch = collate(trainable.examples)
    faster = {key for key in trainable.state.params if key.endswith("lora_b")}
    found: dict[str, Any] = {}
    for label, factors, rate in (
        ("slow", {}, 1e-3),
        ("fast", {}, 3e-3),
        ("both", dict.fromkeys(faster, 3.0), 1e-3),
    ):
        step = make_train_step(trainable.backbone, trainable.optimizer, lr_multipliers=factors)
        state = trainable.state._replace(opt_state=init_state(trainable.backbone, trainable.optimizer).opt_state)
        for _ in range(2 if label == "both" else 1):
            state, _ = step(state, batch, rate)
            found.setdefault(label, state)
    for key in trainable.state.params:
        expected = found["fast" if key in faster else "slow"].params[key]

        assert mx.allclose(found["both"].params[key], expected, rtol=1e-5, atol=1e-7), key
    assert int(found["both"].opt_state["step"]) == int(found["slow"].opt_state["step"])
    assert float(found["both"].opt_state["learning_rate"]) == pytest.approx(1e-3)
