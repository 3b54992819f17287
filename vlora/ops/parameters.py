"""How many parameters a model has. Pure."""

import mlx.nn as nn
from mlx.utils import tree_flatten


def count_parameters(module: nn.Module) -> int:
    """Count a model's parameters; packed ones count as the weights that they stand for."""
    n_params = sum(value.size for _, value in tree_flatten(module.parameters()))
    for _, layer in module.named_modules():
        if isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            # A packed word holds 32 / bits weights; the scales and biases beside it are not the model's.
            packed = sum(value.size for name, value in layer.items() if name in ("weight", "scales", "biases"))
            n_params += layer.weight.size * 32 // layer.bits - packed
    return int(n_params)
