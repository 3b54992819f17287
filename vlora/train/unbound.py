"""Whether a model holds what is trained of it, or zeros in its place. Pure."""

import mlx.nn as nn

from ..errors import UnboundError

_MARK = "is_unbound"
"""An attribute of the module that is no parameter."""


def mark(module: nn.Module, *, is_unbound: bool) -> None:
    """Remember that a state holds the module's trainable parameters alone, or that the module has them."""
    setattr(module, _MARK, is_unbound)


def refuse_unbound(module: nn.Module, where: str, what: str) -> None:
    """Refuse to compute with the zeros that `unbind` leaves.

    Args:
        module: The model.
        where: Which function was called.
        what: What it would give.

    Raises:
        UnboundError: A state holds the trainable parameters.
    """
    if getattr(module, _MARK, False):
        msg = (
            f"{where}: unbind has taken the trained weights from the model, which would give {what}; bind a state "
            "first, bind(backbone, state), or load the model anew"
        )
        raise UnboundError(msg)
