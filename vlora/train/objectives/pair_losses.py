"""Losses of pairs of answers: a number for each pair, of the log-probabilities of its answers. Pure, safe to trace."""

import math
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ...recipe.preference import PreferenceSection


class Answers(NamedTuple):
    """One side of pairs, or answers that have no pair; f32[S] each.

    Attributes:
        logps: Summed log-probabilities of the answers' tokens.
        ratios: How much likelier they have become: `logps` less those of the reference, or `logps` without one.
        lengths: Tokens; 1 where there are none, so that nothing is divided by 0.
    """

    logps: mx.array
    ratios: mx.array
    lengths: mx.array

    @property
    def means(self) -> mx.array:
        """Log-probabilities per token."""
        return self.logps / self.lengths

    @property
    def mean_ratios(self) -> mx.array:
        """Ratios per token."""
        return self.ratios / self.lengths


class Pairs(NamedTuple):
    """The answers of pairs; f32[S] each, group by group.

    Attributes:
        chosen: Those that are preferred.
        rejected: The others.
        weights: 1 for a pair and 0 for a filler.
    """

    chosen: Answers
    rejected: Answers
    weights: mx.array

    @property
    def deltas(self) -> mx.array:
        """By how much more the preferred ones have become likelier."""
        return self.chosen.ratios - self.rejected.ratios


PairLoss = Callable[[Pairs, PreferenceSection], mx.array]
"""The loss of each pair, f32[S]."""


def log_sigmoid(x: mx.array) -> mx.array:
    """Compute log(1 / (1 + exp(-x)))."""
    return -mx.logaddexp(0.0, -x)


def log1mexp(x: mx.array) -> mx.array:
    """Compute log(1 - exp(x)) of x < 0, exactly on both sides of -ln 2."""
    is_small = x > -math.log(2)
    # Either branch is given what it can take: an infinite value of the other one would have no gradient.
    near, far = mx.where(is_small, x, -1.0), mx.where(is_small, -1.0, x)
    return mx.where(is_small, mx.log(-mx.expm1(near)), mx.log1p(-mx.exp(far)))


def sigmoid_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """DPO (Rafailov et al., 2023, arXiv 2305.18290), with label smoothing (cDPO) and DPO-Positive's penalty.

    The penalty is inside, as published (Pal et al., 2024, arXiv 2402.13228, equation 3).
    """
    deltas = pairs.deltas
    if section.dpop:
        deltas = deltas - section.dpop * mx.maximum(0.0, -pairs.chosen.ratios)
    share, margins = section.label_smoothing, section.beta * deltas
    return -(1 - share) * log_sigmoid(margins) - share * log_sigmoid(-margins)


def robust_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """The unbiased estimate under flipped labels (Chowdhury et al., 2024, arXiv 2403.00409)."""
    share, margins = section.label_smoothing, section.beta * pairs.deltas
    return (-(1 - share) * log_sigmoid(margins) + share * log_sigmoid(-margins)) / (1 - 2 * share)


def hinge_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """A margin of one (SLiC, Zhao et al., 2023, arXiv 2305.10425)."""
    return mx.maximum(0.0, 1 - section.beta * pairs.deltas)


def ipo_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """IPO (Azar et al., 2023, arXiv 2310.12036, equation 17) with means over tokens, as its authors' results have."""
    return mx.square(pairs.chosen.mean_ratios - pairs.rejected.mean_ratios - 1 / (2 * section.beta))


def sigmoid_norm_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """DPO with means over tokens."""
    return -log_sigmoid(section.beta * (pairs.chosen.mean_ratios - pairs.rejected.mean_ratios))


def apo_zero_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """Preferred answers up, others down (D'Oosterlinck et al., 2024, arXiv 2408.06266, equation 7)."""
    beta = section.beta
    return 1 - mx.sigmoid(beta * pairs.chosen.ratios) + mx.sigmoid(beta * pairs.rejected.ratios)


def apo_down_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """Both answers down, the other one further (D'Oosterlinck et al., 2024, equation 8)."""
    beta = section.beta
    return mx.sigmoid(beta * pairs.chosen.ratios) + 1 - mx.sigmoid(beta * pairs.deltas)


def bco_pair_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """Each answer classified by itself, without a shift of rewards (Jung et al., 2024, arXiv 2404.04656)."""
    beta = section.beta
    return -log_sigmoid(beta * pairs.chosen.ratios) - log_sigmoid(-beta * pairs.rejected.ratios)


def nca_pair_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """NCA (Chen et al., 2024, arXiv 2402.05369)."""
    chosen, rejected = section.beta * pairs.chosen.ratios, section.beta * pairs.rejected.ratios
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def sppo_hard_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """SPPO with certain preferences (Wu et al., 2024, arXiv 2405.00675, equation 4.7)."""
    wanted = 0.5 / section.beta
    return mx.square(pairs.chosen.ratios - wanted) + mx.square(pairs.rejected.ratios + wanted)


def sft_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """The preferred answer's own loss, as MPO adds it (arXiv 2411.10442, equation 4): TRL's is a mean over a batch."""
    del section
    return -pairs.chosen.means


def simpo_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """SimPO (Meng et al., 2024, arXiv 2405.14734): means over tokens, and no reference."""
    return -log_sigmoid(section.beta * (pairs.chosen.means - pairs.rejected.means) - section.gamma)


def odds_ratios(pairs: Pairs) -> mx.array:
    """Log-ratios of the answers' odds, by means over tokens, f32[S]."""
    # Of a filler the mean is 0, whose odds are infinite.
    chosen, rejected = (mx.where(pairs.weights > 0, side.means, -1.0) for side in (pairs.chosen, pairs.rejected))
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def orpo_loss(pairs: Pairs, section: PreferenceSection) -> mx.array:
    """ORPO (Hong et al., 2024, arXiv 2403.07691), but for the preferred answer's own loss."""
    return -section.beta * log_sigmoid(odds_ratios(pairs))


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": sigmoid_loss,
    "robust": robust_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
    "sigmoid_norm": sigmoid_norm_loss,
    "apo_zero": apo_zero_loss,
    "apo_down": apo_down_loss,
    "bco_pair": bco_pair_loss,
    "nca_pair": nca_pair_loss,
    "sppo_hard": sppo_hard_loss,
    "sft": sft_loss,
    "simpo": simpo_loss,
    "orpo": orpo_loss,
}
"""Losses over pairs by their names in a recipe."""
