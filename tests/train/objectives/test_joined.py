"""Sums over the examples of a microbatch that several ranks share."""

import attrs
import pytest

from tests.train.objectives.test_preference import WORKED, Answer, loss_of, objective, targets_of
from vlora.train.objectives.joined import JoinedObjective, complete_targets
from vlora.train.objectives.objective import Objective


def test_ranks_that_share_a_microbatch_have_one_divergence() -> None:
    """The losses of its parts add up to that of the whole where sums go over all of them, and otherwise do not."""
    parts = [
        [attrs.evolve(WORKED[side], preferred=1.0 - side), Answer((-1.0, -1.0), reference, 1.0, 0, mismatched=1.0)]
        for side, reference in ((0, -2.3), (1, -4.0))
    ]
    kto = objective("kto")
    assert isinstance(kto, JoinedObjective)
    whole = [attrs.evolve(answer, group=number) for number, part in enumerate(parts) for answer in part]
    given = [targets_of(part) for part in parts]
    sums = [kto.find_sums(*each)["divergence"] for each in given]
    shared = attrs.evolve(kto, total=lambda _: sum(sums[1:], sums[0]))

    def add_up(one: Objective) -> float:
        found = [one.function(logprobs, complete_targets(one, logprobs, targets)) for logprobs, targets in given]
        return sum(float(total) for total, _ in found) / sum(float(count) for _, count in found)

    assert add_up(shared) == pytest.approx(loss_of(kto, whole), rel=1e-6)
    assert add_up(kto) != pytest.approx(loss_of(kto, whole), rel=1e-2)
