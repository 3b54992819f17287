"""The model that training starts from, without a second one: adapters switched off, or a copy of what is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..adapters.attached import lora_layers, switched_off
from ..errors import PreferenceError
from ..recipe.schema import Recipe
from ..types import Batch, Inputs, Targets, TrainState
from .backbone import Backbone, Params
from .chunked_head import token_logprobs
from .objectives.named import find_objective
from .objectives.objective import LossFn, Objective
from .objectives.preference import REFERENCE, find_reference
from .objectives.sums import sum_in_two_parts
from .state import bound_params


@attrs.frozen(eq=False)
class Reference:
    """Computes log-probabilities of the model that training starts from.

    Attributes:
        backbone: The model. Nothing that embeds its inputs is trained: they are those of the step.
        params: What the trained parameters were; empty where all of them are those of adapters that start from nothing,
            or from the principal part of their weights: these are switched off.
    """

    backbone: Backbone
    params: Params = attrs.field(factory=dict)

    @classmethod
    def of_start(cls, backbone: Backbone, params: Params, *, are_adapters_new: bool) -> "Reference":
        """Make that of a run.

        Args:
            backbone: The model.
            params: The trained parameters before the first step.
            are_adapters_new: All of them are of adapters that add nothing before the first step.
        """
        # Copies: one array cannot be both a constant and an argument of a compiled step.
        held = {} if are_adapters_new else {name: mx.array(value) for name, value in params.items()}
        mx.eval(held)
        return cls(backbone, held)

    def completed(self, inputs: Inputs, targets: Targets) -> tuple[Inputs, Targets]:
        """Give targets the columns of a reference, and inputs that wait for it; safe to trace, without a gradient.

        Call it within the backbone's overrides, and with nothing dropped.
        """
        with self._taken_back():
            logprobs = token_logprobs(self.params, backbone=self.backbone, inputs=inputs, targets=targets)
        found = find_reference(logprobs, targets)
        # One pass after the other: otherwise the activations of both are alive at once.
        names, leaves = zip(*tree_flatten(inputs.differentiable), strict=True)
        waiting = tree_unflatten(list(zip(names, mx.depends(list(leaves), [*found.values()]), strict=True)))
        return inputs._replace(differentiable=waiting), targets._replace(columns={**targets.columns, **found})

    @contextmanager
    def _taken_back(self) -> Iterator[None]:
        if self.params:
            yield
            return
        with switched_off(self.backbone.module):
            yield


def make_reference_step(backbone: Backbone) -> Callable[[TrainState, Batch], mx.array]:
    """Make what finds the summed log-probabilities of a batch's examples; without dropout, and no gradient.

    Args:
        backbone: The model.

    Returns:
        `step(state, batch)`: f32[2, S], two parts whose sum has more digits than float32; what is behind the batch's
        examples means nothing.
    """
    names = backbone.embed_param_names()

    def sums(params: Params, inputs: Inputs, targets: Targets) -> mx.array:
        with backbone.overrides():
            found = token_logprobs(params, backbone=backbone, inputs=inputs, targets=targets)
        return mx.stack([*sum_in_two_parts(found, targets)])

    run: Callable[[Params, Inputs, Targets], mx.array] = mx.compile(sums) if backbone.is_traceable else sums

    def step(state: TrainState, batch: Batch) -> mx.array:
        with bound_params(backbone.module, {name: state.params[name] for name in names}):
            inputs = Inputs(batch.tokens, *backbone.embed(batch))
        return run(state.params, inputs, batch.targets._replace(columns={}))

    return step


def can_be_taken_back(backbone: Backbone, params: Params) -> bool:
    """Whether the model can be what training starts from within a step: only adapters of the language model learn.

    Of others a second copy of the weights would be needed, or a second pass of what embeds the inputs.
    """
    own = {f"{name}.{factor}" for name, _ in lora_layers(backbone.module) for factor in ("lora_a", "lora_b", "m")}
    return not backbone.embed_param_names() and params.keys() <= own


def make_reference(recipe: Recipe, backbone: Backbone, params: Params) -> Reference | None:
    """Make what a recipe's objective compares with in each step; None if there is nothing, or rows bring it.

    Args:
        recipe: The recipe.
        backbone: As `load_model` returns it.
        params: The trained parameters before the first step.

    Raises:
        PreferenceError: More is trained than adapters of the language model.
    """
    loss = find_objective(recipe.train.objective, recipe.preference)
    if not isinstance(loss, Objective) or not loss.has_reference or recipe.preference.precompute:
        return None
    if not can_be_taken_back(backbone, params):
        msg = (
            "preference.precompute: found false, and more is trained than adapters of the language model, so that the "
            "model that training starts from is not there in a step; set it to true"
        )
        raise PreferenceError(msg)
    return Reference.of_start(backbone, params, are_adapters_new=recipe.model.adapter_path is None)


def lacks_reference(loss: LossFn | Objective, targets: Targets) -> bool:
    """Whether an objective needs a reference that the batch does not bring."""
    return isinstance(loss, Objective) and loss.has_reference and REFERENCE not in targets.columns
