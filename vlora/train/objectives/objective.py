"""What a step minimises: a sum over tokens, or a function of their log-probabilities. Pure.

Both give a sum and a count, never a mean: the step divides once, by the count of all its microbatches. A mean of means
would weigh a one-token microbatch like a hundred-token one.
"""

from collections.abc import Callable

import attrs
import mlx.core as mx

from ...types import Targets

LossFn = Callable[[mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
"""A sum over tokens: (logits f[..., V], targets i32[...], weights f32[...]) -> (f32[] summed loss, f32[] summed
weights). It is called for parts of a batch's tokens."""


@attrs.frozen
class Objective:
    """A function of a batch's token log-probabilities, which may join tokens and examples as it likes.

    Attributes:
        function: (log-probabilities f32[N], targets) -> (f32[] sum, f32[] what it is divided by). Log-probabilities are
            0 where `targets.weights` is. It sees a whole microbatch; what belongs together, such as the two answers of
            a pair, is in it (`Example.group`), under one number of `targets.group`.
        columns: Names that `targets.columns` has to have, of each batch's examples.
    """

    function: Callable[[mx.array, Targets], tuple[mx.array, mx.array]]
    columns: tuple[str, ...] = ()
