"""What stands in for functions that MLX cannot write down."""

import mlx.core as mx

from vlora.estimate.stand_ins import attention_in_kernels
from vlora.estimate.trace import trace


def test_attention_without_scores() -> None:
    """What stands in for CUDA's attention has its shape, its three gradients, and no array of places by places."""
    queries, keys, values = mx.zeros((2, 4, 48, 8)), mx.zeros((2, 2, 64, 8)), mx.zeros((2, 2, 64, 8))

    def total(given: dict[str, mx.array]) -> mx.array:
        def attend(*inputs: mx.array) -> mx.array:
            return attention_in_kernels(*inputs, scale=1.0, mask="causal").sum()

        return mx.grad(attend, argnums=(0, 1, 2))(given["q"], given["k"], given["v"])

    graph, _ = trace(total, {"q": queries, "k": keys, "v": values})

    assert attention_in_kernels(queries, keys, values, scale=1.0).shape == queries.shape
    assert [graph.arrays[name].shape for name in graph.outputs] == [queries.shape, keys.shape, values.shape]
    assert not [array for array in graph.arrays.values() if array.shape[-2:] == (48, 64)]
