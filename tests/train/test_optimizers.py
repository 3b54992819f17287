"""Optimizers against their papers' first steps."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora import make_optimizer
from vlora.recipe.schema import OPTIMIZERS, WITHOUT_WEIGHT_DECAY, OptimSection

RATE = 1e-2


def take_steps(section: OptimSection, gradients: list[mx.array], start: mx.array) -> mx.array:
    optimizer = make_optimizer(section)
    params = {"layer.weight": start}
    optimizer.init(params)
    for gradient in gradients:
        params = optimizer.apply_gradients({"layer.weight": gradient}, params)
    return params["layer.weight"]


gradients = st.lists(
    st.floats(-100, 100, width=32).filter(lambda value: abs(value) > 1e-2), min_size=1, max_size=8
).map(lambda values: mx.array(values)[:, None])


@pytest.mark.parametrize("name", ["adam", "adamw", "lion"])
@given(gradient=gradients)
def test_first_step_is_the_learning_rate(name: Any, gradient: mx.array) -> None:
    """The first step of Adam, AdamW and Lion is the learning rate in size, against the gradient's sign."""
    start = mx.zeros_like(gradient)

    moved = take_steps(OptimSection(name=name, learning_rate=RATE), [gradient], start)

    assert mx.allclose(moved, -RATE * mx.sign(gradient), rtol=1e-4)


@given(gradient=gradients)
def test_first_step_of_sgd(gradient: mx.array) -> None:
    """The first step of SGD is the learning rate times the gradient, the second carries the momentum on."""
    section = OptimSection(name="sgd", learning_rate=RATE, betas=(0.9, 0.999))
    start = mx.zeros_like(gradient)

    assert mx.allclose(take_steps(section, [gradient], start), -RATE * gradient, rtol=1e-5)
    assert mx.allclose(take_steps(section, [gradient] * 2, start), -RATE * 2.9 * gradient, rtol=1e-5)


def test_adamw_follows_the_paper() -> None:
    """Ten steps of AdamW are those of the paper's algorithm, bias correction and decoupled decay included."""
    section = OptimSection(name="adamw", learning_rate=RATE, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
    values = np.random.default_rng(0).normal(size=(10, 3, 2))
    start = np.ones((3, 2))
    first, second, params = np.zeros((3, 2)), np.zeros((3, 2)), start.copy()
    for step, gradient in enumerate(values, start=1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        params *= 1 - RATE * 0.1
        params -= RATE * (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.95**step)) + 1e-6)

    found = take_steps(section, [mx.array(gradient.astype(np.float32)) for gradient in values], mx.array(start))

    assert np.allclose(np.array(found), params, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: Any) -> None:
    """Every optimizer that a recipe can name brings a bowl's slope down, for matrices and vectors."""
    section = OptimSection(name=name, learning_rate=0.05)
    optimizer = make_optimizer(section)
    target = {"matrix": mx.random.normal((6, 4), key=mx.random.key(0)), "vector": mx.ones(5)}
    params = {key: mx.zeros_like(value) for key, value in target.items()}
    optimizer.init(params)

    def loss(params: dict[str, mx.array]) -> mx.array:
        return sum((mx.square(params[key] - target[key]).sum() for key in target), mx.array(0.0))

    before = float(loss(params))
    for _ in range(20):
        params = optimizer.apply_gradients(mx.grad(loss)(params), params)

    assert math.isfinite(float(loss(params)))
    assert float(loss(params)) < 0.7 * before


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in WITHOUT_WEIGHT_DECAY])
def test_weight_decay_shrinks(name: Any) -> None:
    """Weight decay makes weights smaller than they are without it."""
    start, gradient = mx.random.normal((4, 4), key=mx.random.key(0)), mx.full((4, 4), 1e-3)

    plain, decayed = (
        take_steps(OptimSection(name=name, learning_rate=RATE, weight_decay=decay), [gradient] * 3, start)
        for decay in (0.0, 0.5)
    )

    assert float(mx.linalg.norm(decayed)) < float(mx.linalg.norm(plain))
