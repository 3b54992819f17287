"""What an adapter makes of its base's parameters, one part of a parameter at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import mlx.core as mx
from mlx.utils import tree_flatten

from .. import models
from ..adapters.attached import lora_layers
from ..adapters.layers import Adapter
from ..adapters.merge import merged_weight, quantized_parts, unpacked
from ..build import find_model, load_model
from ..errors import CheckpointError
from ..recipe.schema import Recipe

FROZEN = ".linear."
"""Between the name of an adapter and those of its frozen layer's parameters."""


@attrs.frozen(eq=False, kw_only=True)
class Trained:
    """A base and what was trained of it.

    Attributes:
        files: The base.
        backbone: The base without its weights, and the adapter with them.
        config: The adapter's configuration.
        layers: The adapters, by their layers' names.
        whole: Parameters that were trained whole, by name.
        on_loading: Layers that the recipe quantizes when the base is loaded, and how.
    """

    files: models.ModelFiles
    backbone: models.MlxVlmBackbone
    config: Mapping[str, Any]
    layers: Mapping[str, Adapter]
    whole: Mapping[str, mx.array]
    on_loading: Mapping[str, Mapping[str, Any]]

    def changes(self, parameter: str) -> bool:
        """Whether a parameter is not what the base's files have."""
        layer, _, part = parameter.rpartition(".")
        is_layer = part == "weight" and (layer in self.layers or layer in self.on_loading)
        return is_layer or self.trained_whole(parameter) is not None

    def trained_whole(self, parameter: str) -> mx.array | None:
        """Give a parameter that was trained whole, that of an adapter's frozen layer included."""
        layer, _, part = parameter.rpartition(".")
        found = self.whole.get(parameter)
        return self.whole.get(f"{layer}{FROZEN}{part}") if found is None else found

    def before(self, parameter: str, base: mx.array, index: Sequence[slice] = ()) -> mx.array:
        """Give what a parameter was before its adapter, where it was trained on: quantized, if it was on loading.

        Args:
            parameter: Its name.
            base: It, or a part of it, as the base has it.
            index: Which part, as for `merged_weight`; whole rows of what is quantized.
        """
        whole = self.trained_whole(parameter)
        if whole is not None:
            return whole[tuple(index)] if index else whole
        layer, _, part = parameter.rpartition(".")
        scheme = self.on_loading.get(layer)
        if scheme is None or part != "weight":
            return base
        return unpacked(quantized_parts(base, scheme), scheme)

    def after(self, parameter: str, base: mx.array, index: Sequence[slice] = ()) -> mx.array:
        """Give a parameter, or a part of it, as it was trained; arguments as for `before`."""
        before = self.before(parameter, base, index)
        layer, _, part = parameter.rpartition(".")
        if part != "weight" or layer not in self.layers:
            return before
        return merged_weight(self.layers[layer], before, index)


def open_trained(recipe: Recipe) -> Trained:
    """Read an adapter, and find the base that its recipe names, none of whose weights are read.

    Raises:
        VloraError: There is no such base, or the adapter does not fit it or is damaged.
    """
    files = find_model(recipe)
    models.fetch_weights(files)
    backbone, config = load_model(recipe, files, is_abstract=True)
    layers = dict(lora_layers(backbone.module))
    whole = {
        name: value
        for name, value in tree_flatten(backbone.module.trainable_parameters())
        if name.rpartition(".")[0] not in layers
    }
    trained = Trained(
        files=files,
        backbone=backbone,
        config=config,
        layers=layers,
        whole=whole,
        on_loading=config.get("base_quantization") or {},
    )
    _refuse_non_finite(trained, str(recipe.model.adapter_path))
    return trained


def _refuse_non_finite(trained: Trained, adapter: str) -> None:
    for name, value in tree_flatten(trained.backbone.module.trainable_parameters()):
        if not mx.isfinite(value).all().item():
            msg = f"{adapter}: {name} has values that are not finite; take another checkpoint"
            raise CheckpointError(msg)
