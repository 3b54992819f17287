"""Objectives over preferences, and what is told of them: pure functions of answers' log-probabilities, safe to trace.

An answer is an example whose supervised tokens are compared; `columns` says which of a pair it is. Each loss is one
number for each pair (`pair_losses.py`), or for each answer where rows have one. Sums and counts: how pairs are
divided into microbatches changes nothing, but for the estimate of KTO, which is of a microbatch; several ranks add it
up over all of it.
"""

import functools
from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ...recipe.preference import REFERENCED, PreferenceSection, find_losses
from ...types import Targets
from .joined import JoinedObjective
from .likelihood import ENTROPY, IS_LIKELIEST, MEAN_LOGIT
from .objective import Metrics, Objective
from .pair_losses import PAIR_LOSSES, Answers, Pairs, log_sigmoid, odds_ratios
from .sums import read_column, sum_by_example, sum_by_group, sum_in_two_parts

PREFERRED = "preferred"
"""Column: 1 of an answer that is preferred or wanted, 0 of another one."""

MISMATCHED = "mismatched"
"""Column of KTO: 1 of an answer to another row's question, by which only the divergence is estimated; 0 of others."""

DIVERGENCE = "divergence"
"""Column, f32[2]: the sum of the ratios of mismatched answers, and their number; of the microbatch if missing."""

REFERENCE = "reference"
"""Column: the summed log-probability of an answer in the model that training starts from."""

REFERENCE_REST = "reference_rest"
"""Column: what is to be added to `REFERENCE`, since float32 holds seven digits; 0 if missing."""

OF_BOTH = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
OF_PAIRS = ("rewards/margins", "rewards/accuracies")
OF_TOKENS = ("logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy")
OF_ODDS = ("nll_loss", "log_odds_ratio", "log_odds_chosen")
"""What is told beside losses, under the names of TRL."""


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


def find_reference(logprobs: mx.array, targets: Targets) -> dict[str, mx.array]:
    """Find the columns of a reference, f32[S] each, without a gradient.

    Args:
        logprobs: f32[N], of the model that training starts from.
        targets: Those of the same tokens.
    """
    sums = sum_in_two_parts(logprobs, targets)
    return dict(zip((REFERENCE, REFERENCE_REST), map(mx.stop_gradient, sums), strict=True))


def split_reference(logprob: float) -> dict[str, float]:
    """Give the columns of an example whose summed log-probability in the reference is known in double precision."""
    rounded = float(np.float32(logprob))
    return {REFERENCE: rounded, REFERENCE_REST: logprob - rounded}


def find_pairs(logprobs: mx.array, targets: Targets) -> Pairs:
    """Add up the log-probabilities of tokens by answers, and put answers together to pairs.

    Args:
        logprobs: f32[N].
        targets: Their groups are pairs; the column `REFERENCE` may be missing.
    """
    found = find_answers(logprobs, targets)
    is_preferred = targets.columns[PREFERRED]

    def side(of: mx.array) -> Answers:
        logps, ratios, lengths = (sum_by_group(value * of, targets) for value in found)
        return Answers(logps, ratios, mx.maximum(lengths, 1))

    weights = sum_by_group(targets.example_weights, targets) > 0
    return Pairs(side(is_preferred), side(1 - is_preferred), weights.astype(mx.float32))


def find_answers(logprobs: mx.array, targets: Targets) -> Answers:
    """Add up the log-probabilities of tokens by answers; `lengths` may be 0.

    Args:
        logprobs: f32[N].
        targets: The columns of a reference may be missing.
    """
    rounded, rest = sum_in_two_parts(logprobs, targets)
    logps = ratios = rounded + rest
    if REFERENCE in targets.columns:
        # Each part less its own: both differences are small, and lose nothing.
        ratios = (rounded - targets.columns[REFERENCE]) + (rest - read_column(REFERENCE_REST, targets))
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
    total = (find_answers(logprobs, targets).ratios * is_mismatched).sum()
    return {DIVERGENCE: mx.stack([total, is_mismatched.sum()])}


def _kto_terms(logprobs: mx.array, targets: Targets) -> tuple[Answers, mx.array, mx.array, mx.array]:
    """Find (answers, the divergence f32[], 1 for a wanted answer f32[S], 1 for an unwanted one f32[S])."""
    answers = find_answers(logprobs, targets)
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
