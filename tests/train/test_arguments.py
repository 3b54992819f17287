"""Slips in what a step is given; tests/repository/test_public_arguments.py has those of a whole loop."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from vlora import loss_fn
from vlora.train.arguments import check_step, check_sums, check_training
from vlora.types import TrainState

STATE = TrainState(params={}, opt_state={}, step=mx.array(0))


@pytest.mark.parametrize("rate", [0, 1e-3, np.float32(1e-3), np.int64(0), mx.array(float("nan"))])
def test_rates_are_numbers_of_any_type(rate: Any) -> None:
    """Those of NumPy too; an array is not looked into, which would wait for the device."""
    check_step(STATE, [], rate)


@pytest.mark.parametrize("rate", [float("inf"), float("nan"), np.float32("nan"), -1, np.float64(-1e-9)])
def test_a_rate_by_which_a_state_would_be_lost_is_refused(rate: Any) -> None:
    """Nothing that is not a number gets into a state, and no step goes uphill."""
    with pytest.raises(ValueError, match=f"found {rate}; give a finite number of 0 or more"):
        check_step(STATE, [], rate)


@pytest.mark.parametrize("count", [3, 3.0, mx.array(3)])
def test_a_count_is_a_number_or_an_array(count: Any) -> None:
    """A loss may count its terms on the host."""
    total = mx.array(2.0)

    assert check_sums([total, count]) == (total, count)


@pytest.mark.parametrize("found", [mx.zeros(2), (mx.zeros(1), mx.array(1)), (1.0, 2.0), (mx.array(0.0),), None, "ab"])
def test_other_results_of_a_loss_are_refused(found: Any) -> None:
    """An array of two is no pair; a sum without a gradient is none."""
    with pytest.raises(TypeError, match=r"^the loss returned .*; return \(the sum"):
        check_sums(found)


def test_an_optimizer_that_does_not_say_its_weight_decay() -> None:
    """Parameters can be left out of a weight decay that is there to be read; without such parameters it need not be."""
    check_training(optim.Optimizer(), loss_fn, None, ())
    check_training(optim.SGD(0.1, weight_decay=0.1), loss_fn, None, {"norm.weight"})

    with pytest.raises(TypeError, match="found Optimizer, which has no attribute weight_decay, and 1 parameter in"):
        check_training(optim.Optimizer(), loss_fn, None, {"norm.weight"})
