"""Losses over preferences, and what is told of them: pure functions of answers' log-probabilities, safe to trace.

An answer is an example whose supervised tokens are compared; `columns` says which of a pair it is. Each loss is one
number for each pair, or for each answer where rows have one. Sums and counts: how pairs are divided into microbatches
changes nothing, but for the estimate of KTO, which is of a microbatch; several ranks add it up over all of it.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import mlx.core as mx

from ...recipe.preference import REFERENCED, PreferenceSection, find_losses
from ...types import Targets
from .joined import JoinedObjective
from .likelihood import ENTROPY, IS_LIKELIEST, MEAN_LOGIT
from .objective import Metrics, Objective
from .sums import read_column, sum_by_example, sum_by_group

PREFERRED = "preferred"
"""Column: 1 of an answer that is preferred or wanted, 0 of another one."""

MISMATCHED = "mismatched"
"""Column of KTO: 1 of an answer to another row's question, by which only the divergence is estimated; 0 of others."""

DIVERGENCE = "divergence"
"""Column, f32[2]: the sum of the ratios of mismatched answers, and their number; of the microbatch if missing."""

REFERENCE = "reference"
"""Column: the summed log-probability of an answer in the model that training starts from."""


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


OF_BOTH = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
OF_PAIRS = ("rewards/margins", "rewards/accuracies")
OF_TOKENS = ("logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy")
OF_ODDS = ("nll_loss", "log_odds_ratio", "log_odds_chosen")
"""What is told beside losses, under the names of TRL."""

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


def make_preference_objective(name: str, section: PreferenceSection) -> Objective:
    """Make an objective over preferences.

    Args:
        name: "dpo", "orpo" or "cpo" for pairs, "kto" for answers that are wanted or not.
        section: The recipe's.

    Returns:
        The objective. It reads the columns `PREFERRED`, `REFERENCE` if it has one, `MISMATCHED` for the loss "kto".
    """
    losses = find_losses(name, section)
    reference = (REFERENCE,) if name in REFERENCED else ()
    if name == "kto":
        is_joined = "kto" in losses
        make = functools.partial(JoinedObjective, find_sums=_find_divergence) if is_joined else Objective
        return make(
            functools.partial(_kto_sums, losses=losses, section=section),
            columns=(PREFERRED, MISMATCHED) if is_joined else (PREFERRED,),
            measure=functools.partial(_kto_metrics, section=section),
            metrics=(*OF_BOTH, *OF_TOKENS[:-1], *(["kl"] if is_joined else [])),
            reads_statistics=True,
            has_reference=bool(reference),
        )
    if name in ("cpo", "orpo") and section.nll_weight:
        losses = {**losses, "sft": section.nll_weight}
    return Objective(
        functools.partial(_pair_sums, losses=losses, section=section),
        columns=(PREFERRED,),
        measure=functools.partial(_pair_metrics, section=section, has_odds=name == "orpo"),
        metrics=(*OF_BOTH, *OF_PAIRS, *OF_TOKENS, *(OF_ODDS if name == "orpo" else ())),
        reads_statistics=True,
        has_reference=bool(reference),
    )


def find_pairs(logprobs: mx.array, targets: Targets) -> Pairs:
    """Add up the log-probabilities of tokens by answers, and put answers together to pairs.

    Args:
        logprobs: f32[N].
        targets: Their groups are pairs; the column `REFERENCE` may be missing.
    """
    found = _answers(logprobs, targets)
    is_preferred = targets.columns[PREFERRED]

    def side(of: mx.array) -> Answers:
        logps, ratios, lengths = (sum_by_group(value * of, targets) for value in found)
        return Answers(logps, ratios, mx.maximum(lengths, 1))

    weights = sum_by_group(targets.example_weights, targets) > 0
    return Pairs(side(is_preferred), side(1 - is_preferred), weights.astype(mx.float32))


def _answers(logprobs: mx.array, targets: Targets) -> Answers:
    """Add up the log-probabilities of tokens by answers; `lengths` may be 0."""
    logps = sum_by_example(logprobs, targets)
    ratios = logps - targets.columns[REFERENCE] if REFERENCE in targets.columns else logps
    return Answers(logps, ratios, sum_by_example(targets.weights, targets))


def _pair_sums(
    logprobs: mx.array, targets: Targets, *, losses: Mapping[str, float], section: PreferenceSection
) -> tuple[mx.array, mx.array]:
    pairs = find_pairs(logprobs, targets)
    total = sum((weight * PAIR_LOSSES[name](pairs, section) for name, weight in losses.items()), mx.array(0.0))
    return mx.where(pairs.weights > 0, total, 0).sum(), pairs.weights.sum()


def _pair_metrics(logprobs: mx.array, targets: Targets, *, section: PreferenceSection, has_odds: bool) -> Metrics:
    pairs = find_pairs(logprobs, targets)
    count, beta = pairs.weights.sum(), section.beta
    values = {
        "rewards/chosen": beta * pairs.chosen.ratios,
        "rewards/rejected": beta * pairs.rejected.ratios,
        "rewards/margins": beta * pairs.deltas,
        "rewards/accuracies": pairs.chosen.ratios > pairs.rejected.ratios,
        "logps/chosen": pairs.chosen.logps,
        "logps/rejected": pairs.rejected.logps,
    }
    if has_odds:
        odds = odds_ratios(pairs)
        values |= {
            "nll_loss": -pairs.chosen.means,
            "log_odds_ratio": log_sigmoid(odds),
            "log_odds_chosen": odds,
        }
    of_pairs = {name: (mx.where(pairs.weights > 0, value, 0).sum(), count) for name, value in values.items()}
    is_chosen = targets.columns[PREFERRED] * targets.example_weights
    return of_pairs | _token_metrics(targets, is_chosen, targets.example_weights - is_chosen)


def _token_metrics(targets: Targets, is_chosen: mx.array, is_rejected: mx.array) -> Metrics:
    """Find means over the tokens of answers, f32[S] each being 1 for those of a side."""
    chosen, rejected = (side[targets.example] * targets.weights for side in (is_chosen, is_rejected))
    values = targets.columns
    found = {
        "logits/chosen": (MEAN_LOGIT, chosen),
        "logits/rejected": (MEAN_LOGIT, rejected),
        "entropy": (ENTROPY, chosen + rejected),
        "mean_token_accuracy": (IS_LIKELIEST, chosen),
    }
    return {name: ((values[value] * own).sum(), own.sum()) for name, (value, own) in found.items()}


def _find_divergence(logprobs: mx.array, targets: Targets) -> dict[str, mx.array]:
    is_mismatched = read_column(MISMATCHED, targets)
    total = (_answers(logprobs, targets).ratios * is_mismatched).sum()
    return {DIVERGENCE: mx.stack([total, is_mismatched.sum()])}


def _kto_terms(logprobs: mx.array, targets: Targets) -> tuple[Answers, mx.array, mx.array, mx.array]:
    """Find (answers, the divergence f32[], 1 for a wanted answer f32[S], 1 for an unwanted one f32[S])."""
    answers = _answers(logprobs, targets)
    of_rows = targets.example_weights - read_column(MISMATCHED, targets)
    is_wanted = targets.columns[PREFERRED] * of_rows
    sums = {**_find_divergence(logprobs, targets), **targets.columns}[DIVERGENCE]
    # By their places: `mx.compile` of MLX 0.32.4 raises an IndexError where an array is unpacked twice.
    divergence = sums[0] / mx.maximum(sums[1], 1)
    return answers, mx.stop_gradient(mx.maximum(divergence, 0)), is_wanted, of_rows - is_wanted


def _kto_sums(
    logprobs: mx.array, targets: Targets, *, losses: Mapping[str, float], section: PreferenceSection
) -> tuple[mx.array, mx.array]:
    """KTO (Ethayarajh et al., 2024, arXiv 2402.01306, equation 7), and APO zero of answers without a pair."""
    answers, divergence, is_wanted, is_unwanted = _kto_terms(logprobs, targets)
    total = mx.array(0.0)
    for name, weight in losses.items():
        shift = divergence if name == "kto" else mx.array(0.0)
        gain = section.beta * (answers.ratios - shift)
        wanted = section.desirable_weight * is_wanted * (1 - mx.sigmoid(gain))
        unwanted = section.undesirable_weight * is_unwanted * (1 - mx.sigmoid(-gain))
        total = total + weight * (wanted + unwanted).sum()
    return total, (is_wanted + is_unwanted).sum()


def _kto_metrics(logprobs: mx.array, targets: Targets, *, section: PreferenceSection) -> Metrics:
    answers, divergence, is_wanted, is_unwanted = _kto_terms(logprobs, targets)
    found: dict[str, tuple[mx.array, mx.array]] = {}
    for name, own in (("chosen", is_wanted), ("rejected", is_unwanted)):
        found[f"rewards/{name}"] = (section.beta * answers.ratios * own).sum(), own.sum()
        found[f"logps/{name}"] = (answers.logps * own).sum(), own.sum()
    of_tokens = _token_metrics(targets, is_wanted, is_unwanted)
    count = (is_wanted + is_unwanted).sum()
    return {**found, **{name: of_tokens[name] for name in OF_TOKENS[:-1]}, "kl": (divergence * count, count)}
