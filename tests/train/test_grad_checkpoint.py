"""Gradient checkpointing: whatever is recomputed, the numbers stay; and less is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from tests.families import FAMILIES, build
from tests.training import Trainable, make_trainable
from vlora import Batch, collate, make_train_step
from vlora.errors import ModelError
from vlora.models.families.registry import describe_family
from vlora.models.load.loading import prepare
from vlora.recipe.schema import ModelSection
from vlora.train.grad_checkpoint import checkpointed, choose_modules, find_mlps

CheckpointFactory = Callable[[str], Path]

CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"checkpoint_every": 2},
    {"checkpoint_part": "mlp"},
    {"checkpoint_every": 2, "checkpoint_part": "mlp"},
)
SETUPS: dict[str, dict[str, Any]] = {
    "dropout": {"lora__dropout": 0.3},
    "4-bit": {"model__quantize_bits": 4, "model__quantize_group_size": 32, "lora__dropout": 0.3},
    "vision": {"model__train_vision": True},
    "full": {"model__full_finetune": True, "model__train_vision": True},
}


def gradients(trainable: Trainable, batch: Batch, **options: Any) -> dict[str, np.ndarray]:
    """Compute the loss and the mean gradient of a step: what plain descent at rate 1 subtracts."""
    trainable.optimizer.learning_rate = 1.0
    state, output = make_train_step(trainable.backbone, trainable.optimizer, **options)(trainable.state, batch, 1.0)
    mx.eval(state, output)
    found = {name: np.array(value - state.params[name]) for name, value in trainable.state.params.items()}
    return {**found, "loss": np.array(output.nll_sum / output.n_supervised)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        scale = max(1e-3, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, atol=1e-5 * scale, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("family", "setup"),
    [
        ("qwen3_vl", "dropout"),
        ("qwen3_vl", "4-bit"),
        ("qwen3_vl", "full"),
        ("llava", "vision"),
        pytest.param("gemma3", "dropout", marks=pytest.mark.slow),
        pytest.param("qwen3_vl_moe", "4-bit", marks=pytest.mark.slow),
        pytest.param("mllama", "full", marks=pytest.mark.slow),
        pytest.param("lfm2_vl", "4-bit", marks=pytest.mark.slow),
    ],
)
def test_nothing_changes(family: str, setup: str, checkpoint: CheckpointFactory) -> None:
    """Every choice of what is recomputed gives loss and gradients of the step that keeps everything."""
    trainable = make_trainable(checkpoint(family), optim__name="sgd", optim__betas=[0.0, 0.0], **SETUPS[setup])
    batch = collate(trainable.examples)
    expected = gradients(trainable, batch, compiled=False)
    for choice in CHOICES:
        assert_same(gradients(trainable, batch, compiled=False, grad_checkpoint=True, **choice), expected)
    assert_same(gradients(trainable, batch, grad_checkpoint=True, **CHOICES[-1]), expected)


def test_less_is_kept(checkpoint: CheckpointFactory) -> None:
    """Peak memory falls: most with every layer, less with every second one or the MLPs only.

    A CPU's thread frees arrays while the caller already takes memory for later ones, so that a peak depends on the
    time that each of them gets. The smallest of several peaks is compared; without compiling they differ too much.
    """
    trainable = make_trainable(checkpoint("aya_vision"))
    example = trainable.examples[2]
    long = np.resize(example.tokens, 512).astype(np.int32)
    supervised = np.arange(512) > 504
    batch = collate([attrs.evolve(example, tokens=long, supervised=supervised)])
    peaks = []
    for options in ({}, *({"grad_checkpoint": True, **choice} for choice in CHOICES[:3])):
        step = make_train_step(trainable.backbone, trainable.optimizer, **options)
        attempts = []
        for _ in range(4):
            mx.reset_peak_memory()
            mx.eval(step(trainable.state, batch, 1e-3))
            attempts.append(mx.get_peak_memory())
        peaks.append(min(attempts))
    nothing, every, second, mlp = peaks

    assert every < second < nothing
    assert every < mlp < nothing


@pytest.mark.parametrize(("family", "extra"), [("qwen3_vl", 2), ("llava", 1)])
def test_the_tower_runs_again(family: str, extra: int, checkpoint: CheckpointFactory) -> None:
    """A trained tower's layers run once more in the backward pass; LLaVA does not take the last one's features."""
    trainable = make_trainable(checkpoint(family), model__train_vision=True)
    batch = collate(trainable.examples[:1])
    (layers,) = (stack for stack in trainable.backbone.tower_layers if "Merger" not in type(stack[0]).__name__)
    counts = []
    for recomputes in (False, True):
        calls: list[nn.Module] = []
        cls = type(layers[0])

        class Counting(cls):  # type: ignore[valid-type, misc]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                calls.append(self)  # noqa: B023
                return super().__call__(*args, **kwargs)

        for layer in layers:
            layer.__class__ = Counting
        step = make_train_step(trainable.backbone, trainable.optimizer, grad_checkpoint=recomputes)
        mx.eval(step(trainable.state, batch, 1e-3))
        for layer in layers:
            layer.__class__ = cls
        trainable.backbone._grid_tower = None
        counts.append(len(calls))

    assert counts[1] - counts[0] == extra


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("gemma4_moe", {"MLP", "Experts"}),
        ("nemotron_h_nano_omni", {"NemotronHMoE", "NemotronHMLP"}),
        ("granite4_vision", {"SharedMLP"}),
        ("minimax_m3_vl", {"MiniMaxMLP", "MiniMaxSparseMoeBlock"}),
        ("gemma3n", {"MLP"}),
        ("florence2", set()),
        ("molmo", set()),
    ],
)
def test_mlps_are_found(family: str, kinds: set[str]) -> None:
    """By name or class, dense or of experts; a family without any says so."""
    backbone, _ = prepare(build(FAMILIES[family]), describe_family(family), ModelSection(path=family))
    if kinds:
        assert {type(mlp).__name__ for mlp in backbone.checkpoint_modules(1, "mlp")[0]} == kinds
    else:
        with pytest.raises(ModelError, match=r"train\.checkpoint_part: .* use 'layer'"):
            backbone.checkpoint_modules(1, "mlp")


def test_too_few_layers(checkpoint: CheckpointFactory) -> None:
    """A stride beyond the stack would recompute nothing, and is refused."""
    backbone = make_trainable(checkpoint("qwen3_vl")).backbone

    with pytest.raises(ModelError, match=r"train\.checkpoint_every: found 3, .* has 2 layers"):
        backbone.checkpoint_modules(3, "layer")


def test_arguments_of_every_kind() -> None:
    """Nested arguments, indices, constants and None reach a checkpointed module as they were given."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def __call__(self, x: mx.array, rest: tuple[Any, ...], *, scale: float, none: None = None) -> mx.array:
            (rows, (shift,), empty) = rest
            assert none is None
            assert empty == ()
            return (self.linear(x[rows]) + shift) * scale

    layer = Layer()

    def loss(x: mx.array, shift: mx.array) -> mx.array:
        return layer(x, (mx.array([1, 0]), [shift], ()), scale=2.0).square().sum()

    inputs = mx.random.normal((2, 4), key=mx.random.key(0)), mx.ones(4)
    expected = mx.value_and_grad(loss, argnums=(0, 1))(*inputs)
    with checkpointed([layer]):
        assert type(layer).__name__ == "CheckpointedLayer"
        found = mx.value_and_grad(loss, argnums=(0, 1))(*inputs)

    assert type(layer) is Layer
    assert mx.allclose(found[0], expected[0])
    assert all(mx.allclose(a, b) for a, b in zip(found[1], expected[1], strict=True))


def test_every_kth() -> None:
    """The last of every k layers is chosen; an MLP that is a layer itself is its own."""
    layers = [nn.Linear(2, 2) for _ in range(7)]

    assert choose_modules(layers, 3, "layer") == [layers[2], layers[5]]
    assert find_mlps(layers[0]) == []
