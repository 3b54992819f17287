"""Objectives whose terms depend on sums over all examples of a microbatch, which several ranks may share. Pure."""

from collections.abc import Callable

import attrs
import mlx.core as mx

from ...types import Targets
from .objective import Objective


@attrs.frozen
class JoinedObjective(Objective):
    """An objective with such sums, as KTO has its divergence.

    Attributes:
        find_sums: Arrays by name, of a microbatch's log-probabilities f32[N] and targets; no gradient flows through
            them. `function` and `measure` read them as columns, and find them by themselves where these are missing.
        total: Adds up such an array over the ranks that share a microbatch; None where one has all of it.
    """

    find_sums: Callable[[mx.array, Targets], dict[str, mx.array]] = attrs.field(kw_only=True)
    total: Callable[[mx.array], mx.array] | None = attrs.field(default=None, kw_only=True)


def complete_targets(objective: Objective, logprobs: mx.array, targets: Targets) -> Targets:
    """Give targets the sums of all ranks as columns, where several share a microbatch.

    Args:
        objective: Any.
        logprobs: f32[N].
        targets: Of the same tokens.
    """
    if not isinstance(objective, JoinedObjective) or objective.total is None:
        return targets
    found = objective.find_sums(mx.stop_gradient(logprobs), targets)
    sums = {name: mx.stop_gradient(objective.total(value)) for name, value in found.items()}
    return targets._replace(columns={**targets.columns, **sums})
