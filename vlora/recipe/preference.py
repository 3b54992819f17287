"""The section of a recipe for what is learned from preferences, and which losses each objective has."""

import attrs

from . import checks
from .converter import key

LOSSES: dict[str, tuple[str, ...]] = {
    "dpo": (
        *("sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "apo_zero", "apo_down", "bco_pair", "sft"),
        *("nca_pair", "sppo_hard"),
    ),
    "cpo": ("sigmoid", "hinge", "ipo", "simpo"),
    "orpo": ("orpo",),
    "kto": ("kto", "apo_zero_unpaired"),
}
"""Losses of each objective over preferences; the first one is taken where a recipe names none."""

REFERENCED = ("dpo", "kto")
"""Objectives that compare the model with the one that training starts from."""

UNPAIRED = ("kto",)
"""Objectives whose rows have one answer and a mark; the others compare two answers."""


@attrs.frozen(kw_only=True)
class PreferenceSection:
    """What is learned from preferences, with train.objective "dpo", "kto", "orpo" or "cpo".

    Attributes:
        loss: One or several of the objective's: of dpo "sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "apo_zero",
            "apo_down", "bco_pair", "nca_pair", "sppo_hard", "sft"; of cpo "sigmoid", "hinge", "ipo", "simpo"; of orpo
            "orpo"; of kto "kto", "apo_zero_unpaired". The first of them without one.
        weights: What several losses are multiplied with before they are added; 1 without them.
        beta: How strongly the model is held to the one it starts from, or how far rewards are apart.
        label_smoothing: Share of pairs that are taken to be labelled the wrong way round: of "sigmoid" (conservative
            DPO) and "robust".
        gamma: Of "simpo": by how much the better answer has to be ahead.
        dpop: Of "sigmoid": how much a preferred answer costs that has become less likely (DPO-Positive); 50 in its
            paper.
        nll_weight: Of cpo and orpo: the weight of the preferred answer's own loss, a mean over its tokens. SimPO's
            paper has 0.
        desirable_weight: Of kto: the weight of rows whose answer is wanted.
        undesirable_weight: Of kto: the weight of the others.
        precompute: Keep the log-probabilities of the model that training starts from on disk, in features.path: they
            are computed before the first step, once for all epochs and runs. Of weights that devices divide
            (train.shard) they are kept for the run alone.
    """

    loss: tuple[str, ...] = key(())
    weights: tuple[float, ...] = key((), checks.weights)
    beta: float = key(0.1, checks.above(0))
    label_smoothing: float = key(0.0, checks.minority)
    gamma: float = key(0.5, checks.at_least(0))
    dpop: float = key(0.0, checks.at_least(0))
    nll_weight: float = key(1.0, checks.at_least(0))
    desirable_weight: float = key(1.0, checks.at_least(0))
    undesirable_weight: float = key(1.0, checks.at_least(0))
    precompute: bool = key(default=False)


def find_losses(objective: str, section: PreferenceSection) -> dict[str, float]:
    """Name the losses of an objective with their weights; of a recipe without contradictions."""
    names = section.loss or LOSSES[objective][:1]
    return dict(zip(names, section.weights or (1.0,) * len(names), strict=True))
