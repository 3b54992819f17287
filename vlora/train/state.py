"""The training state, and the model that computes with its parameters. Pure.

A model holds the frozen weights, and the trained ones only while something here has bound them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from ..ops.modules import read_array, write_arrays
from ..types import TrainState
from .backbone import Backbone
from .flat_params import FlatParams
from .unbound import mark, refuse_unbound


def init_state(backbone: Backbone, optimizer: optim.Optimizer) -> TrainState:
    """Make the state of a run that has not begun: float32 masters of the trainable parameters."""
    refuse_unbound(backbone.module, "init_state", "a state of zeros")
    params = {name: value.astype(mx.float32) for name, value in tree_flatten(backbone.module.trainable_parameters())}
    optimizer.init(FlatParams.of(params, optimizer).pack(params))
    # `learning_rate` enters as an array, so that a new rate is no new trace.
    state = TrainState(params, dict(optimizer.state), mx.array(0, dtype=mx.int32))
    # The optimizer itself would hold on to the moments of the first step.
    optimizer.state = {name: value for name, value in optimizer.state.items() if isinstance(value, mx.array)}
    return state


def bind(backbone: Backbone, state: TrainState) -> None:
    """Write a state's parameters into the model, in the model's own types."""
    current = dict(tree_flatten(backbone.module.trainable_parameters()))
    write_arrays(backbone.module, {name: value.astype(current[name].dtype) for name, value in state.params.items()})
    mark(backbone.module, is_unbound=False)


def unbind(backbone: Backbone) -> None:
    """Replace the model's trainable parameters, which a state holds, by zeros that take no memory.

    Steps give the model those of the state; whatever else runs it has to `bind` them first.
    """
    held = tree_flatten(backbone.module.trainable_parameters())
    write_arrays(
        backbone.module, {name: mx.broadcast_to(mx.zeros((), value.dtype), value.shape) for name, value in held}
    )
    mark(backbone.module, is_unbound=True)


def all_finite(state: TrainState) -> bool:
    """Whether all parameters of a state are finite numbers; waits for the state."""
    found = [mx.isfinite(value).all() for value in state.params.values()]
    return bool(mx.stack(found).all()) if found else True


@contextmanager
def bound_params(module: nn.Module, params: Mapping[str, mx.array]) -> Iterator[None]:
    """Bind `params` to the module, masters cast to its own types, and restore its parameters afterwards."""
    if not params:
        yield
        return
    held = {name: read_array(module, name) for name in params}
    try:
        typed = {
            # What is of another type has been cast to the one that it is used in.
            name: value.astype(held[name].dtype) if value.dtype == mx.float32 else value
            for name, value in params.items()
        }
        write_arrays(module, typed)
        yield
    finally:
        write_arrays(module, held)
