"""What a step minimises: a sum over tokens, or a function of their log-probabilities. Pure.

Both give a sum and a count, never a mean: the step divides once, by the count of all its microbatches. A mean of means
would weigh a one-token microbatch like a hundred-token one.
"""

from collections.abc import Callable

import attrs
import mlx.core as mx

from ...types import Targets
from .likelihood import TOKEN_STATISTICS

LossFn = Callable[[mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
"""A sum over tokens: (logits f[..., V], targets i32[...], weights f32[...]) -> (f32[] summed loss, f32[] summed
weights). It is called for parts of a batch's tokens."""


Metrics = dict[str, tuple[mx.array, mx.array]]
"""Values by name: (f32[] sum, f32[] what it is divided by), so that those of microbatches can be added."""


Packed = tuple[mx.array, ...]
"""The same for compiled functions: f32[M, 2] in the order of `Objective.metrics`, or nothing.

One array: of outputs that are computed alike `mx.compile` of MLX 0.32.4 loses all but one, and raises an IndexError.
"""


def measure_nothing(logprobs: mx.array, targets: Targets) -> Metrics:
    """Tell nothing beside the loss."""
    del logprobs, targets
    return {}


@attrs.frozen
class Objective:
    """A function of a batch's token log-probabilities, which may join tokens and examples as it likes.

    Attributes:
        function: (log-probabilities f32[N], targets) -> (f32[] sum, f32[] what it is divided by). Log-probabilities are
            0 where `targets.weights` is. It sees a whole microbatch; what belongs together, such as the two answers of
            a pair, is in it (`Example.group`), under one number of `targets.group`.
        columns: Names that `targets.columns` has to have, of each batch's examples.
        measure: What is told beside the loss, of the same arguments; no gradient flows through it.
        metrics: The names of what `measure` gives, in any order.
        reads_statistics: Whether `measure` reads `TOKEN_STATISTICS` as columns f32[N] of its targets: what the logits
            of each token say beside its log-probability.
        has_reference: Whether it reads the column "reference", f32[S]: the summed log-probabilities of the examples'
            targets in the model that training starts from. Examples bring it, or a step's `Reference` computes it,
            with what float32 leaves of it in "reference_rest".
    """

    function: Callable[[mx.array, Targets], tuple[mx.array, mx.array]]
    columns: tuple[str, ...] = ()
    measure: Callable[[mx.array, Targets], Metrics] = measure_nothing
    metrics: tuple[str, ...] = ()
    reads_statistics: bool = False
    has_reference: bool = False

    def pack(self, logprobs: mx.array, targets: Targets, statistics: mx.array | None = None) -> Packed:
        """Measure, and give what was found as one array.

        Args:
            logprobs: f32[N].
            targets: Of the same tokens.
            statistics: f32[N, 3], the `TOKEN_STATISTICS` of the same tokens, where they are read.
        """
        if not self.metrics:
            return ()
        if statistics is not None:
            named = zip(TOKEN_STATISTICS, mx.stop_gradient(statistics).T, strict=True)
            targets = targets._replace(columns={**targets.columns, **dict(named)})
        found = self.measure(mx.stop_gradient(logprobs), targets)
        return (mx.stack([mx.stack([value.astype(mx.float32) for value in found[name]]) for name in self.metrics]),)

    def unpack(self, packed: Packed) -> Metrics:
        """Name what was measured."""
        return {name: (pair[0], pair[1]) for array in packed for name, pair in zip(self.metrics, array, strict=True)}
