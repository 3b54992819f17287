"""Which state of a run is the best one so far, and how long none has been better. Pure."""

import json
import math
from typing import Self

import attrs

from ..events import Best

VALID_LOSS, OF_ANSWERS = "valid_loss", "eval_"
"""Names in metrics.jsonl: the loss of a validation, and how those of metrics begin."""


@attrs.frozen(kw_only=True)
class Choice:
    """What was said of the states of a run so far.

    Attributes:
        judged_by: The value of metrics.jsonl that judges them.
        is_higher_better: Whether the largest value is the best one.
        step: The step behind which the best state was; None as long as none was judged.
        value: Its value.
        reference: What the next state has to be better than, by more than train.early_stopping_min_delta.
        n_stale: How many states in a row were not.
        untrained: The value before the first step; None if there is none.
        judged: The last step whose state was judged; it is judged once.
    """

    judged_by: str = VALID_LOSS
    is_higher_better: bool = False
    step: int | None = None
    value: float | None = None
    reference: float | None = None
    n_stale: int = 0
    untrained: float | None = None
    judged: int = 0

    def judge(self, step: int, value: float, min_delta: float = 0.0) -> Self:
        """Judge the state behind a step; one that equals an earlier one is not better.

        Args:
            step: The step; 0 for the untrained model, which is no candidate.
            value: Its value; one that is not finite is not better than any.
            min_delta: `train.early_stopping_min_delta`.
        """
        if not step:
            return attrs.evolve(self, untrained=value if math.isfinite(value) else None)
        if step <= self.judged:
            return self
        found = attrs.evolve(self, judged=step)
        if self._gain(value, self.value) > 0:
            found = attrs.evolve(found, step=step, value=value)
        if self._gain(value, self.reference) > min_delta:
            return attrs.evolve(found, reference=value, n_stale=0)
        return attrs.evolve(found, n_stale=self.n_stale + 1)

    def _gain(self, value: float, than: float | None) -> float:
        if not math.isfinite(value):
            return -math.inf
        if than is None:
            return math.inf
        return value - than if self.is_higher_better else than - value

    def has_stopped(self, patience: int | None) -> bool:
        """Whether so many states in a row were not better that the run is over."""
        return patience is not None and self.n_stale >= patience

    def forget(self) -> Self:
        """Give the choice without its best state, which is there no more; how long none was better stays."""
        return attrs.evolve(self, step=None, value=None)

    def best(self) -> Best | None:
        """Give the best state, if one was judged."""
        if self.step is None or self.value is None:
            return None
        is_worse = self.untrained is not None and self._gain(self.value, self.untrained) <= 0
        return Best(
            judged_by=self.judged_by, step=self.step, value=self.value, untrained=self.untrained if is_worse else None
        )

    def dumps(self) -> str:
        """Write it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        """Read what `dumps` wrote."""
        return cls(**json.loads(text))
