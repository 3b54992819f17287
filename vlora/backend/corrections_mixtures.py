"""Corrections of the large mixtures of experts: what they keep between forwards, and kernels without gradients.

Each is of one model's instance, or holds only while it runs. Files and lines are those of mlx-vlm 0.7.10.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from .corrections import Correction


def forgetting(*names: str) -> Correction:
    """Let a model keep nothing that it has made of weights which are trained.

    Kimi-K3's layers keep the product of a norm and a projection (kimi_k3/language.py:747, :822), Inkling's a scale
    (inkling/language.py:749), Molmo-Point's head its two tables as one (molmo_point/language.py:209), and make them
    once: a traced step would leave a tracer there, on which the next answer fails, and an answer would leave what the
    weights were then.

    Args:
        names: The attributes in which modules keep it; None means that it is to be made.
    """

    def forget(model: nn.Module) -> None:
        for module in model.modules():
            for name in names:
                if getattr(module, name, None) is not None:
                    setattr(module, name, None)

    @contextmanager
    def correction(model: nn.Module) -> Iterator[None]:
        forget(model)
        try:
            yield
        finally:
            forget(model)

    return correction


@contextmanager
def without_metal_kernels(_: nn.Module) -> Iterator[None]:
    """Let a model take the operations that it has for other devices, instead of Metal kernels without gradients.

    Of routing and of banded masks (inkling/language.py:752, :165, :180), and of sparse attention to long rows
    (minimax_m3_vl/language.py:450, qwen4_exp/qsa_kernel.py:254, sparse_attention.py:187 for glm5_next); other models
    ask whether they are in training, these do not.
    """
    own = mx.metal.is_available
    mx.metal.is_available = lambda: False
    try:
        yield
    finally:
        mx.metal.is_available = own
