"""Every loss over preferences is its published formula, written down again in float64, of whatever pairs and keys."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.objectives.test_preference import Answer, objective, pairs, targets_of
from vlora.recipe.preference import LOSSES, PreferenceSection
from vlora.train.objectives.preference import make_preference_objective


def log_s(x: float) -> float:
    """Log of the logistic function."""
    return float(-np.logaddexp(0.0, -x))


def s(x: float) -> float:
    """The logistic function."""
    return math.exp(log_s(x))


def log_odds(mean: float) -> float:
    """Log of p / (1 - p) for the mean log-probability of a token."""
    return mean - math.log(-math.expm1(mean))


class Ratios(NamedTuple):
    """How much likelier than with the reference a pair is: the better answer and the worse one, and means of tokens."""

    c: float
    r: float
    mean_c: float
    mean_r: float


Formula = Callable[[Ratios, PreferenceSection], float]
"""The loss of a pair."""

DPO: dict[str, Formula] = {
    "sigmoid": lambda p, k: (
        -(1 - k.label_smoothing) * log_s(k.beta * (p.c - p.r - k.dpop * max(0, -p.c)))
        - k.label_smoothing * log_s(-k.beta * (p.c - p.r - k.dpop * max(0, -p.c)))
    ),
    "robust": lambda p, k: (
        (-(1 - k.label_smoothing) * log_s(k.beta * (p.c - p.r)) + k.label_smoothing * log_s(-k.beta * (p.c - p.r)))
        / (1 - 2 * k.label_smoothing)
    ),
    "hinge": lambda p, k: max(0.0, 1 - k.beta * (p.c - p.r)),
    "ipo": lambda p, k: (p.mean_c - p.mean_r - 1 / (2 * k.beta)) ** 2,
    "sigmoid_norm": lambda p, k: -log_s(k.beta * (p.mean_c - p.mean_r)),
    "apo_zero": lambda p, k: 1 - s(k.beta * p.c) + s(k.beta * p.r),
    "apo_down": lambda p, k: s(k.beta * p.c) + 1 - s(k.beta * (p.c - p.r)),
    "bco_pair": lambda p, k: -log_s(k.beta * p.c) - log_s(-k.beta * p.r),
    "nca_pair": lambda p, k: -log_s(k.beta * p.c) - 0.5 * log_s(-k.beta * p.c) - 0.5 * log_s(-k.beta * p.r),
    "sppo_hard": lambda p, k: (p.c - 0.5 / k.beta) ** 2 + (p.r + 0.5 / k.beta) ** 2,
}
"""Of "dpo", but for the answer's own loss."""

WITHOUT_REFERENCE: dict[tuple[str, str], Formula] = {
    ("cpo", "sigmoid"): lambda p, k: -log_s(k.beta * (p.c - p.r)),
    ("cpo", "hinge"): DPO["hinge"],
    ("cpo", "ipo"): DPO["ipo"],
    ("cpo", "simpo"): lambda p, k: -log_s(k.beta * (p.mean_c - p.mean_r) - k.gamma),
    ("orpo", "orpo"): lambda p, k: -k.beta * log_s(log_odds(p.mean_c) - log_odds(p.mean_r)),
}
"""Of "cpo" and "orpo", whose ratios are log-probabilities, but for the preferred answer's own loss."""


@st.composite
def sections(draw: st.DrawFn) -> PreferenceSection:
    """Draw keys."""
    return PreferenceSection(
        beta=draw(st.sampled_from([0.0625, 0.1, 0.5, 2.0])),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.4])),
        gamma=draw(st.sampled_from([0.0, 0.5, 1.6])),
        dpop=draw(st.sampled_from([0.0, 5.0, 50.0])),
        nll_weight=draw(st.sampled_from([0.0, 0.3, 1.0])),
    )


def ratios_of(pair: tuple[Answer, Answer], *, has_reference: bool) -> Ratios:
    """Add up the log-probabilities of a pair, without those of the reference."""
    c, r = (math.fsum(answer.logprobs) - answer.reference * has_reference for answer in pair)
    return Ratios(c, r, c / len(pair[0].logprobs), r / len(pair[1].logprobs))


def own_loss(pair: tuple[Answer, Answer]) -> float:
    """The preferred answer's own loss, a mean over its tokens."""
    return -math.fsum(pair[0].logprobs) / len(pair[0].logprobs)


def sum_of(name: str, section: PreferenceSection, found: list[tuple[Answer, Answer]]) -> float:
    """Compute what an objective makes of pairs."""
    made = make_preference_objective(name, section)
    flat = [answer for pair in found for answer in pair]
    return float(made.function(*targets_of(flat, has_reference=made.has_reference))[0])


def near(value: float) -> object:
    """Compare with a float32 whose terms are larger than it."""
    return pytest.approx(value, rel=1e-4, abs=1e-3)


@given(found=pairs(), section=sections(), data=st.data())
def test_losses_are_their_formulas(
    found: list[tuple[Answer, Answer]], section: PreferenceSection, data: st.DataObject
) -> None:
    """One loss, and several with weights, which are the weighted sum of what each is."""
    formulas: dict[str, Callable[[tuple[Answer, Answer]], float]] = {
        name: lambda pair, formula=formula: formula(ratios_of(pair, has_reference=True), section)  # type: ignore[misc]
        for name, formula in DPO.items()
    }
    formulas["sft"] = own_loss
    assert formulas.keys() == set(LOSSES["dpo"])
    names = data.draw(st.lists(st.sampled_from(LOSSES["dpo"]), min_size=1, max_size=3, unique=True))
    weights = tuple(data.draw(st.sampled_from([0.2, 1.0, 3.0])) for _ in names)
    keys: dict[str, Any] = {name: getattr(section, name) for name in ("beta", "label_smoothing", "dpop")}
    several = PreferenceSection(loss=tuple(names), weights=weights, **keys)

    each = [sum(formulas[name](pair) for pair in found) for name in names]
    assert sum_of("dpo", PreferenceSection(loss=(names[0],), **keys), found) == near(each[0])
    assert sum_of("dpo", several, found) == near(sum(w * value for w, value in zip(weights, each, strict=True)))


@given(found=pairs(), section=sections(), which=st.sampled_from([*WITHOUT_REFERENCE]))
def test_losses_without_a_reference_are_their_formulas(
    found: list[tuple[Answer, Answer]], section: PreferenceSection, which: tuple[str, str]
) -> None:
    """With the preferred answer's own loss beside them, by its weight."""
    assert {*WITHOUT_REFERENCE} == {(name, loss) for name in ("cpo", "orpo") for loss in LOSSES[name]}
    name, loss = which
    keys: dict[str, Any] = {"beta": section.beta, "gamma": section.gamma, "nll_weight": section.nll_weight}
    expected = sum(
        WITHOUT_REFERENCE[which](ratios_of(pair, has_reference=False), section) + section.nll_weight * own_loss(pair)
        for pair in found
    )

    assert sum_of(name, PreferenceSection(loss=(loss,), **keys), found) == near(expected)


@given(
    found=pairs(),
    divergence=st.floats(-5, 5, width=32),
    weights=st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.0, 1.5])),
)
def test_kto_is_its_formula(
    found: list[tuple[Answer, Answer]], divergence: float, weights: tuple[float, float]
) -> None:
    """Of a divergence that is 0 at least, with a weight of either kind of answer."""
    made = objective("kto", desirable_weight=weights[0], undesirable_weight=weights[1])
    answers = [answer for pair in found for answer in pair]
    other = Answer((-6.0,), -6.0 - divergence, 1.0, 0, mismatched=1.0)
    shift = max(0.0, divergence)
    expected = 0.0
    for answer in answers:
        reward = math.fsum(answer.logprobs) - answer.reference
        value = reward - shift if answer.preferred else shift - reward
        expected += weights[0 if answer.preferred else 1] * (1 - s(0.1 * value))

    assert float(made.function(*targets_of([*answers, other]))[0]) == near(expected)


def apo_zero_unpaired(
    answers: Sequence[Answer], beta: float, weights: tuple[float, float]
) -> tuple[float, np.ndarray[Any, np.dtype[np.float64]]]:
    """Compute TRL's `apo_zero_unpaired` (`KTOTrainer`, 1.16): 1 - s(beta r) of wanted answers, s(beta r) of others.

    It is equation 7 of APO (arXiv 2408.06266), its terms apart.

    Args:
        answers: They need not be pairs.
        beta: What the ratios r of log-probabilities are multiplied by.
        weights: Of wanted answers and of others.

    Returns:
        The sum over answers, and its gradient by the log-probability of each token, f64[N].
    """
    n_tokens = [len(answer.logprobs) for answer in answers]
    ratios = np.array([math.fsum(answer.logprobs) - answer.reference for answer in answers])
    is_wanted = np.array([answer.preferred for answer in answers]) > 0
    likely = 1 / (1 + np.exp(-beta * ratios))
    weight = np.where(is_wanted, *weights)
    total = weight * np.where(is_wanted, 1 - likely, likely)
    slopes = weight * np.where(is_wanted, -1, 1) * beta * likely * (1 - likely)
    return float(total.sum()), np.repeat(slopes, n_tokens)


def value_and_gradient(
    answers: Sequence[Answer], beta: float, weights: tuple[float, float]
) -> tuple[float, np.ndarray[Any, Any]]:
    """Compute the same by the objective, without the gradients of fillers."""
    keys = {"beta": beta, "desirable_weight": weights[0], "undesirable_weight": weights[1]}
    made = objective("kto", "apo_zero_unpaired", **keys)
    logprobs, targets = targets_of(answers)
    value, gradient = mx.value_and_grad(lambda values: made.function(values, targets)[0])(logprobs)
    return float(value), np.asarray(gradient)[:-1]


@pytest.mark.parametrize(
    ("is_wanted", "beta", "expected", "slope"),
    [
        (1.0, 0.1, 0.450166, -0.0247517),
        (1.0, 2.0, 0.0179862, -0.0353254),
        (0.0, 0.1, 0.549834, 0.0247517),
        (0.0, 2.0, 0.982014, 0.0353254),
    ],
)
def test_worked_values_of_apo_zero_without_pairs(is_wanted: float, beta: float, expected: float, slope: float) -> None:
    """Of an answer that is 2 nats likelier than with the reference: the logistic function of 0.2 and of 4, by hand."""
    answer = Answer((-2.5,) * 4, -12.0, is_wanted, 0)

    value, gradient = value_and_gradient([answer], beta, (1.0, 1.0))
    assert apo_zero_unpaired([answer], beta, (1.0, 1.0))[0] == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, [slope] * 4, rtol=1e-5)


@given(
    found=pairs(),
    beta=st.sampled_from([0.0625, 0.1, 0.5, 2.0]),
    weights=st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.0, 1.5])),
)
def test_apo_zero_without_pairs_is_its_formula(
    found: list[tuple[Answer, Answer]], beta: float, weights: tuple[float, float]
) -> None:
    """The sum and its gradient agree; each kind of answer has its weight, and the kinds need not be equally many."""
    answers = [answer for pair in found for answer in pair][1:]
    expected, slopes = apo_zero_unpaired(answers, beta, weights)

    value, gradient = value_and_gradient(answers, beta, weights)
    assert value == near(expected)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-5)
