"""The update: gradients are clipped and given to the optimizer, unless one of them is not finite. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..types import TrainState
from .backbone import Params
from .clipping import clip_by_global_norm
from .flat_params import FLAT, FlatParams
from .parameter_rates import let_decay


@attrs.define(eq=False)
class Update:
    """What an optimizer makes of a state and the summed gradients of a step.

    Attributes:
        optimizer: As `make_optimizer` makes it; what it holds is put back after every call.
        max_grad_norm: Largest global norm of the mean gradient.
        lr_multipliers: How many times the learning rate a parameter has; once, where it is not named.
        undecayed: Parameters that the optimizer's weight decay leaves out.
        packing: How small parameters are packed.
    """

    optimizer: optim.Optimizer
    max_grad_norm: float | None = None
    lr_multipliers: Mapping[str, float] = attrs.field(factory=dict)
    undecayed: Collection[str] = ()
    packing: FlatParams = attrs.field(factory=lambda: FlatParams({}))

    def apply(
        self, state: TrainState, gradients: Params, loss_sum: mx.array, count: mx.array, learning_rate: mx.array
    ) -> tuple[TrainState, Params, mx.array]:
        """Update a state whose small parameters are packed.

        Returns:
            The new state, its parameters unpacked; the packed ones once more as one array, by its name; the norm.
        """
        packing = self.packing
        if FLAT not in gradients:
            gradients = packing.pack(gradients)
        gradients, norm = clip_by_global_norm(gradients, self.max_grad_norm, mx.maximum(count, 1))
        # Within the update, so that the old state need not be held until the host has seen the loss; and before the
        # optimizer, whose kernels stay fused: a choice between new and old states costs four more for each parameter.
        is_finite = mx.isfinite(loss_sum) & mx.isfinite(norm)
        gradients = {name: mx.where(is_finite, gradient, 0) for name, gradient in gradients.items()}
        rate = mx.where(is_finite, learning_rate, 0)
        held = self.optimizer.state
        try:
            params, opt_state = self._optimize(state, gradients, rate)
        finally:
            self.optimizer.state = held
        packed = {FLAT: params[FLAT]} if packing.shapes else {}
        opt_state["learning_rate"] = learning_rate
        return TrainState(packing.unpack(params), opt_state, state.step + 1), packed, norm

    def _optimize(self, state: TrainState, gradients: Params, rate: mx.array) -> tuple[Params, dict[str, Any]]:
        """Take an optimizer step; return (packed parameters, its state)."""
        factors = self.packing.pack_factors(self.lr_multipliers)
        optimizer = self.optimizer
        # A copy of the tree: MLX's optimizers write into the one that they are given.
        optimizer.state = tree_map(lambda value: value, state.opt_state)
        params: Params = {}
        with self._own_decays(gradients) as decays:
            for name, gradient in gradients.items():
                # All parameters take the same step, each at its own rate.
                optimizer.state["step"] = state.opt_state["step"]
                optimizer.state["learning_rate"] = rate * factors.get(name, 1.0)
                taken = gradient, state.params[name]
                if decays:
                    taken = let_decay(optimizer, *taken, decays[name])
                params |= optimizer.apply_gradients({name: taken[0]}, {name: taken[1]})
        return params, dict(optimizer.state)

    @contextmanager
    def _own_decays(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Take the weight decay from the optimizer, where some parameters are left out; give that of each."""
        if not self.undecayed:
            yield {}
            return
        optimizer = self.optimizer
        decay, optimizer.weight_decay = optimizer.weight_decay, 0.0
        shares = self.packing.pack_factors(dict.fromkeys(self.undecayed, 0.0))
        try:
            yield {name: decay * shares.get(name, 1.0) for name in names}
        finally:
            optimizer.weight_decay = decay
