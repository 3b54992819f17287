"""Makes whole parts of a model trainable: the language model, the vision tower and the connector."""

import mlx.core as mx
import mlx.nn as nn

from ...adapters.names import BALANCING
from ...errors import ModelError
from ..backbone.backbone import MlxVlmBackbone


def unfreeze_language(backbone: MlxVlmBackbone) -> None:
    """Make the language model trainable, except its selectors, which have no gradient and would only decay.

    Towers within the language model are excluded.

    Raises:
        ModelError: The weights are quantized.
    """
    selectors = set(backbone.layout.selectors)
    fixed = {*BALANCING, *backbone.family.parts.tables}
    for path, child in backbone.module.named_modules():
        if not backbone.is_language(path) or selectors.intersection(path.split(".")):
            continue
        refuse_quantized(child, "model.full_finetune", recurse=False)
        child.unfreeze(recurse=False)
        tables = [
            name
            for name, value in child.items()
            if name in fixed or (isinstance(value, mx.array) and not mx.issubdtype(value.dtype, mx.floating))
        ]
        child.freeze(recurse=False, keys=tables)


def unfreeze_vision(backbone: MlxVlmBackbone) -> None:
    """Make the vision tower and the connector trainable.

    Raises:
        ModelError: The weights are quantized.
    """
    for name, child in backbone.module.named_modules():
        if backbone.layout.part(name) in ("vision", "connector"):
            refuse_quantized(child, "model.train_vision", recurse=False)
            child.unfreeze(recurse=False)
            child.freeze(recurse=False, keys=list(backbone.family.parts.tables))


def refuse_quantized(module: nn.Module, key: str, *, recurse: bool = True) -> None:
    """Refuse to train packed weights.

    Args:
        module: The module to train.
        key: The recipe's key for that.
        recurse: Whether submodules would be trained, too.

    Raises:
        ModelError: The weights are quantized.
    """
    for name, child in module.named_modules() if recurse else [("", module)]:
        # Not by class: some models have their own quantized layers.
        if {"weight", "scales"} <= set(child):
            msg = (
                f"{key}: {name or 'the module'} is quantized, and packed weights cannot be trained; use a base in bf16"
            )
            raise ModelError(msg)
