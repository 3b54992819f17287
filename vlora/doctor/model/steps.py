"""The gradients of a step: compiled and eager, finite, and as the loss says."""

import re
from collections.abc import Mapping

import mlx.core as mx

from ...adapters.attached import lora_layers
from ...adapters.targets import is_experts
from ...data.collate import collate
from ...errors import CheckError
from ...train.eval_step import make_eval_step
from ...train.gradients import step_gradients
from ...train.optimizers import make_optimizer
from ...train.step import make_train_step
from ..comparison import overall_difference
from .subject import PLAIN, LeftOut, Subject

STEP = {"float32": 1e-3, "tf32": 2e-2, "rounded": 0.1}
"""By how much gradients of two ways of computing them may differ, as a share of their size."""

QUOTIENT = {"float32": 0.05, "tf32": 0.1, "rounded": 0.25}
"""By how much a difference quotient may differ from the gradient, as a share of it."""

CHANGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Of the loss, that differences are to make: a small one drowns in rounding, along a long one the gradient changes."""


def take_gradients(subject: Subject, *, compiled: bool) -> tuple[float, dict[str, mx.array]]:
    """Compute the mean loss of all rows and its gradient."""
    step = make_train_step(subject.backbone, make_optimizer(PLAIN), compiled=compiled)
    gradients, output = step_gradients(step, subject.state(), collate(subject.examples))
    mx.eval(gradients, output)
    return float(output.nll_sum / output.n_terms), gradients


def check_compiled(subject: Subject) -> str | LeftOut:
    """Compute loss and gradients compiled, and the same eagerly."""
    if not subject.backbone.is_traceable:
        return LeftOut(f"its step is not compiled: {subject.backbone.family.forward.eager}")
    (loss, gradients), (eager_loss, expected) = (
        take_gradients(subject, compiled=compiled) for compiled in (True, False)
    )
    share = overall_difference(gradients, expected)
    apart = abs(loss - eager_loss) / max(1.0, abs(eager_loss))
    most = STEP[subject.precision]
    if not max(share, apart) <= most:
        msg = (
            f"the compiled step has the loss {loss:.4f} and the eager one {eager_loss:.4f}, their gradients differ by "
            f"{share:.1e} of their size ({most:.0e} is rounding); report it, with the model's name"
        )
        raise CheckError(msg)
    return f"loss {loss:.3f} in both, gradients off by {share:.1e}"


def check_gradients(subject: Subject) -> str:
    """Look for gradients that are not finite or zero, and compare the largest with a difference quotient."""
    _, gradients = take_gradients(subject, compiled=subject.backbone.is_traceable)
    infinite = [name for name, value in gradients.items() if not mx.isfinite(value).all().item()]
    if infinite:
        msg = (
            f"{len(infinite)} of {len(gradients)} parameters have gradients that are not finite, {infinite[0]} first; "
            "convert the model to bfloat16 or float32"
        )
        raise CheckError(msg)
    sizes = {name: float(mx.linalg.norm(value.reshape(-1))) for name, value in gradients.items()}
    idle = [name for name, size in sizes.items() if not size]
    if len(idle) == len(sizes):
        msg = f"none of {len(sizes)} trained parameters has a gradient; give other lora.targets"
        raise CheckError(msg)
    rest = f", {len(idle)} without any ({idle[0]})" if idle else ""
    name, slope = compare_slopes(subject, gradients, sizes)
    compared = f"along {name} it is {sizes[name]:.3g}, found {slope:.3g}"
    return f"{len(sizes) - len(idle)} parameters have one{rest}; {compared}"


def compare_slopes(
    subject: Subject, gradients: Mapping[str, mx.array], sizes: Mapping[str, float]
) -> tuple[str, float]:
    """Compare the largest gradient with a difference of losses; of mixtures of experts one of the last layer will do.

    The loss of such a mixture jumps where a token goes to another expert, however little a parameter before it changes;
    so does that of a model that selects what is attended to.

    Returns:
        The parameter, and its slope.

    Raises:
        CheckError: The gradient is not that of the loss.
    """
    candidates = [max(sizes, key=lambda name: sizes[name])]
    backbone = subject.backbone
    if backbone.family.parts.selectors or any(is_experts(module) for module in backbone.module.modules()):
        last = [name for name, _ in lora_layers(backbone.module) if backbone.is_language(name)][-1:]
        layer = re.sub(r"(.*\.\d+\.).*", r"\1", "".join(last))
        behind = [name for name in sizes if sizes[name] and name.startswith(layer)]
        candidates += sorted(behind, key=lambda name: -sizes[name])
    for place, name in enumerate(candidates):
        try:
            return name, compare_slope(subject, name, gradients[name], sizes[name])
        except CheckError:
            if place == len(candidates) - 1:
                raise
    raise AssertionError


def compare_slope(subject: Subject, name: str, gradient: mx.array, size: float) -> float:
    """Change a parameter along its gradient, and give by how much the loss changes for each unit of length.

    Raises:
        CheckError: It is not the gradient's size, however far the parameter is changed.
    """
    slopes = []
    for change in CHANGES:
        length = change / size
        ahead, behind = (loss_at(subject, {name: gradient * (sign * length / size)}) for sign in (1, -1))
        slopes.append((ahead - behind) / (2 * length))
        if abs(slopes[-1] - size) <= QUOTIENT[subject.precision] * size:
            return slopes[-1]
    found = ", ".join(f"{slope:.3g}" for slope in slopes)
    msg = (
        f"the gradient of {name} is {size:.3g}, the loss changes along it by {found} for each unit: the gradient is "
        "wrong, or too small to be seen; report it, with the model's name"
    )
    raise CheckError(msg)


def loss_at(subject: Subject, change: Mapping[str, mx.array]) -> float:
    """Compute the mean loss of all rows with some parameters changed."""
    params = {**subject.params, **{name: subject.params[name] + difference for name, difference in change.items()}}
    step = make_eval_step(subject.backbone, compiled=False)
    total, count = step(subject.state()._replace(params=params), collate(subject.examples))
    return float(total) / float(count)
