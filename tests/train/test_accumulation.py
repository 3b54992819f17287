"""The gradients of a step, over microbatches and ranks; what several ranks add up is in test_ranks.py."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.training import make_trainable
from vlora import collate, make_train_step
from vlora.data.collate import make_stand_in
from vlora.train.accumulation import middle_of
from vlora.train.backbone import Params
from vlora.train.flat_params import FLAT
from vlora.train.ranks import Ranks

CheckpointFactory = Callable[[str], Path]


class TwoRanks(Ranks):
    """Two ranks, the other one of which has found the same."""

    @property
    def size(self) -> int:
        """Count the ranks."""
        return 2

    def sum_step(self, gradients: Params, numbers: Sequence[mx.array | float]) -> tuple[Params, tuple[mx.array, ...]]:
        """Give twice what this rank has found."""
        return {name: 2 * value for name, value in gradients.items()}, tuple(2 * mx.array(each) for each in numbers)


def test_what_ranks_find_is_added(checkpoint: CheckpointFactory) -> None:
    """Sums are twice as large, means and the step are the same; further numbers are added up as they are."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    batch = collate(trainable.examples[:2], 2)
    alone, other = (
        make_train_step(trainable.backbone, trainable.optimizer, ranks=ranks) for ranks in (None, TwoRanks())
    )
    expected, measured = alone(trainable.state, batch, 1e-3)
    found, together = other(trainable.state, batch, 1e-3, (3.0, 5.0))

    assert float(together.nll_sum) == 2 * float(measured.nll_sum)
    assert float(together.n_supervised) == 2 * float(measured.n_supervised)
    assert [float(number) for number in together.others] == [6.0, 10.0]
    for name, value in expected.params.items():
        np.testing.assert_allclose(found.params[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_halfway_is_known_before_the_rest(checkpoint: CheckpointFactory) -> None:
    """Of packed gradients and of those that are not: what it needs is a part of what the gradients need."""
    for packs in (True, False):
        trainable = make_trainable(checkpoint("qwen3_vl"), optim__name="adamw" if packs else "adafactor")
        step = make_train_step(trainable.backbone, trainable.optimizer, compiled=False)
        total = step.accumulate(trainable.state, collate(trainable.examples[:2], 2))
        sizes = []
        for arrays in (total.halfway, tuple(total.gradients.values())):
            graph = io.StringIO()
            mx.export_to_dot(graph, *arrays)
            sizes.append(len(graph.getvalue()))

        assert (FLAT in total.gradients) == packs
        assert 0.4 * sizes[1] < sizes[0] < 0.9 * sizes[1]


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """Not in that of their digits: layer 10 comes behind layer 9."""
    assert middle_of(tuple(f"layers.{number}.q" for number in range(21))) == "layers.10.q"
    assert middle_of(("head", "layers.2.b", "layers.10.a")) == "layers.2.b"


@attrs.define(eq=False)
class OneOfTwoRanks(TwoRanks):
    """Two ranks, the other one of which has found what is said."""

    other: tuple[Params, tuple[mx.array, ...]] | None = None

    def sum_step(self, gradients: Params, numbers: Sequence[mx.array | float]) -> tuple[Params, tuple[mx.array, ...]]:
        """Add what the other rank has found, or give what this one has, for it to be the other's."""
        found = gradients, tuple(map(mx.array, numbers))
        if self.other is None:
            self.other = found
            return found
        added = {name: value + self.other[0][name] for name, value in gradients.items()}
        return added, tuple(map(mx.add, found[1], self.other[1]))


@pytest.mark.parametrize("ranks", [None, TwoRanks()], ids=["one", "two"])
def test_a_step_without_rows_changes_nothing_but_its_number(checkpoint: CheckpointFactory, ranks: Ranks | None) -> None:
    """Neither parameters nor what the optimizer holds: its moments, and the steps that it has counted."""
    trainable = make_trainable(checkpoint("qwen3_vl"), optim__weight_decay=0.1)
    step = make_train_step(trainable.backbone, trainable.optimizer, ranks=ranks)
    batch = collate(trainable.examples[:2], 2)
    before, _ = step(trainable.state, [batch], 1e-3)
    state, output = step(before, [], 5e-4)
    held, found = (dict(tree_flatten([kept.params, kept.opt_state])) for kept in (before, state))

    assert (float(output.n_terms), float(output.grad_norm), int(state.step)) == (0.0, 0.0, 2)
    assert found.keys() == held.keys()
    assert all(mx.array_equal(value, found[name]) for name, value in held.items())
    after, _ = step(state, [batch], 1e-3)
    expected, _ = step(before, [batch], 1e-3)
    assert all(mx.array_equal(value, after.params[name]) for name, value in expected.params.items())


def test_a_rank_without_rows_takes_part(checkpoint: CheckpointFactory) -> None:
    """Its gradients are zero, and it takes the step of the others."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    step = make_train_step(trainable.backbone, trainable.optimizer, ranks=OneOfTwoRanks())
    expected, measured = step(trainable.state, [collate(trainable.examples[:2], 2)], 1e-3)
    state, output = step(trainable.state, [], 1e-3)

    assert float(output.n_terms) == float(measured.n_terms) > 0
    for (name, value), (_, other) in zip(tree_flatten(state), tree_flatten(expected), strict=True):
        assert mx.array_equal(value, other), name


def test_a_stand_in_is_not_counted(checkpoint: CheckpointFactory) -> None:
    """Beside a batch, and in place of one: the step is that of the others, and the rank that has none takes part."""
    trainable = make_trainable(checkpoint("qwen3_vl"))
    batch, stand_in = collate(trainable.examples[:2], 2), make_stand_in(5)
    step = make_train_step(trainable.backbone, trainable.optimizer, ranks=TwoRanks(), compiled=False)
    expected, measured = step(trainable.state, [batch], 1e-3)
    for given in ([batch, stand_in], [stand_in, batch]):
        found, output = step(trainable.state, given, 1e-3)
        assert (float(output.nll_sum), float(output.n_terms)) == (float(measured.nll_sum), float(measured.n_terms))
        assert all(mx.array_equal(value, expected.params[name]) for name, value in found.params.items())
    assert float(step(trainable.state, [stand_in], 1e-3)[1].n_terms) == 0
