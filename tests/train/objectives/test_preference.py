"""Losses over preferences: worked values, values before the first step, and what no order or grouping changes."""

import math
from collections.abc import Sequence

import attrs
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlora.recipe.preference import LOSSES, PreferenceSection
from vlora.train.objectives.likelihood import ENTROPY, IS_LIKELIEST, MEAN_LOGIT
from vlora.train.objectives.objective import Objective
from vlora.train.objectives.pair_losses import PAIR_LOSSES, log1mexp, log_sigmoid
from vlora.train.objectives.preference import (
    MISMATCHED,
    PREFERRED,
    REFERENCE,
    REFERENCE_REST,
    find_answers,
    find_reference,
    make_preference_objective,
    split_reference,
)
from vlora.types import Targets


@attrs.frozen
class Answer:
    """An answer: its tokens' log-probabilities, the reference's sum, which side it is of, and which pair's."""

    logprobs: tuple[float, ...]
    reference: float
    preferred: float
    group: int
    mismatched: float = 0.0


def targets_of(
    answers: Sequence[Answer], n_fillers: int = 1, *, has_reference: bool = True
) -> tuple[mx.array, Targets]:
    """Lay answers out as a batch does, with fillers behind tokens and answers."""
    n_tokens = [len(answer.logprobs) for answer in answers]
    weights = [1.0] * sum(n_tokens) + [0.0] * n_fillers
    example = [number for number, n in enumerate(n_tokens) for _ in range(n)] + [0] * n_fillers
    blank = [0.0] * n_fillers
    columns = {
        PREFERRED: mx.array([answer.preferred for answer in answers] + blank),
        MISMATCHED: mx.array([answer.mismatched for answer in answers] + blank),
        # Of the tokens: those of the first answer 0, of the second one 1, and so on; of fillers as well.
        **{name: mx.array(example) + start for start, name in enumerate((MEAN_LOGIT, ENTROPY, IS_LIKELIEST))},
    }
    if has_reference:
        for name in (REFERENCE, REFERENCE_REST):
            columns[name] = mx.array([split_reference(answer.reference)[name] for answer in answers] + blank)
    targets = Targets(
        positions=mx.arange(len(weights)),
        ids=mx.zeros((len(weights),), dtype=mx.int32),
        weights=mx.array(weights),
        example=mx.array(example),
        example_weights=mx.array([1.0] * len(answers) + blank),
        group=mx.array([answer.group for answer in answers] + [0] * n_fillers),
        columns=columns,
    )
    logprobs = [value for answer in answers for value in answer.logprobs] + [0.0] * n_fillers
    return mx.array(logprobs), targets


def loss_of(objective: Objective, answers: Sequence[Answer]) -> float:
    """Find the mean loss."""
    total, count = objective.function(*targets_of(answers, has_reference=objective.has_reference))
    return float(total) / float(count)


def objective(name: str, loss: str = "", **keys: float) -> Objective:
    """Make an objective of one loss."""
    return make_preference_objective(name, PreferenceSection(loss=(loss,) if loss else (), **keys))  # type: ignore[arg-type]


WORKED = (Answer((-2.5,) * 4, -12.0, 1.0, 0), Answer((-2.2,) * 5, -10.5, 0.0, 0))
"""Log-probabilities -10 (4 tokens) and -11 (5 tokens), of the reference -12 and -10.5."""


@pytest.mark.parametrize(
    ("name", "loss", "keys", "expected"),
    [
        ("dpo", "sigmoid", {}, 0.575939),
        ("dpo", "hinge", {}, 0.75),
        ("dpo", "ipo", {}, 19.36),
        ("dpo", "sigmoid_norm", {}, 0.663597),
        ("dpo", "robust", {"label_smoothing": 0.1}, 0.544689),
        ("dpo", "sigmoid", {"label_smoothing": 0.1}, 0.600939),
        ("dpo", "apo_zero", {}, 0.937669),
        ("dpo", "apo_down", {}, 0.987657),
        ("dpo", "sft", {}, 2.5),
        ("dpo", "bco_pair", {}, -math.log(1 / (1 + math.exp(-0.2))) - math.log(1 / (1 + math.exp(-0.05)))),
        ("cpo", "sigmoid", {"nll_weight": 0.0}, 0.644397),
        ("cpo", "simpo", {"nll_weight": 0.0, "beta": 2.0, "gamma": 1.0}, 1.783901),
        ("cpo", "simpo", {"nll_weight": 0.5, "beta": 2.0, "gamma": 1.0}, 1.783901 + 1.25),
        ("orpo", "", {"nll_weight": 0.0}, 0.0872738),
        ("orpo", "", {}, 0.0872738 + 2.5),
    ],
)
def test_worked_values(name: str, loss: str, keys: dict[str, float], expected: float) -> None:
    """Values computed from the published formulas by hand."""
    assert loss_of(objective(name, loss, **keys), WORKED) == pytest.approx(expected, rel=1e-5)


def test_dpop_penalises_within_the_sigmoid() -> None:
    """A preferred answer that became less likely costs beta * dpop * its loss of likelihood; another costs nothing."""
    worse = (attrs.evolve(WORKED[0], reference=-9.0), WORKED[1])
    margin = 0.1 * (-1.0 + 0.5 - 50 * 1.0)

    assert loss_of(objective("dpo", dpop=50.0), WORKED) == pytest.approx(0.575939, rel=1e-5)
    assert loss_of(objective("dpo", dpop=50.0), worse) == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-5)


@pytest.mark.parametrize(("is_wanted", "expected"), [(1.0, 0.457602), (0.0, 0.480011)])
def test_worked_values_of_kto(is_wanted: float, expected: float) -> None:
    """With a divergence of 0.3: a wanted answer that is 2 nats likelier, an unwanted one that is 0.5 less likely."""
    answer = attrs.evolve(WORKED[0] if is_wanted else WORKED[1], preferred=is_wanted)
    other = Answer((-1.0, -1.0), -2.3, is_wanted, 0, mismatched=1.0)

    assert loss_of(objective("kto"), [answer, other]) == pytest.approx(expected, rel=1e-5)
    less = attrs.evolve(other, reference=5.0)
    without = loss_of(objective("kto", "apo_zero_unpaired"), [answer, other])
    assert loss_of(objective("kto"), [answer, less]) == pytest.approx(without, rel=1e-6), "a divergence is not negative"
    weighed = objective("kto", desirable_weight=2.0, undesirable_weight=3.0)
    assert loss_of(weighed, [answer, other]) == pytest.approx((2 if is_wanted else 3) * expected, rel=1e-5)


def test_kto_has_no_gradient_through_its_divergence() -> None:
    """Only answers to their own questions learn."""
    answers = [WORKED[0], Answer((-1.0, -1.0), -2.3, 1.0, 0, mismatched=1.0)]
    logprobs, targets = targets_of(answers)

    gradient = mx.grad(lambda values: objective("kto").function(values, targets)[0])(logprobs)

    assert np.all(np.asarray(gradient[:4]) != 0)
    np.testing.assert_array_equal(np.asarray(gradient[4:6]), 0)


OWN = {
    "sigmoid": math.log(2),
    "robust": math.log(2),
    "hinge": 1.0,
    "ipo": 1 / (4 * 0.1**2),
    "sigmoid_norm": math.log(2),
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "bco_pair": 2 * math.log(2),
    "nca_pair": 2 * math.log(2),
    "sppo_hard": 2 * (0.5 / 0.1) ** 2,
}


@pytest.mark.parametrize("loss", OWN)
def test_before_the_first_step(loss: str) -> None:
    """Where the model is its reference each loss has its own value, and margins are none."""
    answers = [
        attrs.evolve(answer, reference=sum(float(np.float32(value)) for value in answer.logprobs)) for answer in WORKED
    ]
    own = objective("dpo", loss)
    found = own.measure(*targets_of(answers))

    assert loss_of(own, answers) == pytest.approx(OWN[loss], rel=1e-6)
    assert float(found["rewards/margins"][0]) == float(found["rewards/accuracies"][0]) == 0.0


def test_every_loss_of_a_recipe_is_there() -> None:
    """Names and functions go together."""
    named = {loss for name, losses in LOSSES.items() if name != "kto" for loss in losses}
    assert named == PAIR_LOSSES.keys()


def test_metrics_have_the_names_and_values_of_trl() -> None:
    """Rewards are beta times ratios; sums and counts, so that microbatches can be added."""
    own = objective("orpo", nll_weight=0.0)
    dpo = objective("dpo")
    found = {name: float(a) / float(b) for name, (a, b) in dpo.measure(*targets_of(WORKED)).items()}
    odds = {name: float(a) / float(b) for name, (a, b) in own.measure(*targets_of(WORKED, has_reference=False)).items()}

    assert found == pytest.approx(
        {
            "rewards/chosen": 0.2,
            "rewards/rejected": -0.05,
            "rewards/margins": 0.25,
            "rewards/accuracies": 1.0,
            "logps/chosen": -10.0,
            "logps/rejected": -11.0,
            "logits/chosen": 0.0,
            "logits/rejected": 1.0,
            "entropy": (4 * 1.0 + 5 * 2.0) / 9,
            "mean_token_accuracy": 2.0,
        },
        rel=1e-5,
    )
    assert odds["log_odds_chosen"] == pytest.approx(-0.331786, rel=1e-5)
    assert odds["nll_loss"] == pytest.approx(2.5)
    unpaired = [*WORKED, Answer((-1.0, -1.0), -2.3, 1.0, 0, mismatched=1.0)]
    kto = {name: float(a) / float(b) for name, (a, b) in objective("kto").measure(*targets_of(unpaired)).items()}
    assert (kto["logits/chosen"], kto["logits/rejected"]) == (0.0, 1.0)
    assert kto["entropy"] == pytest.approx(14 / 9), "answers to other questions count for nothing"
    assert kto["kl"] == pytest.approx(0.3)
    assert set(objective("kto").metrics) == kto.keys()
    assert set(own.metrics) == odds.keys()
    assert set(dpo.metrics) == found.keys()


@st.composite
def pairs(draw: st.DrawFn) -> list[tuple[Answer, Answer]]:
    """Draw pairs with answers of different lengths."""
    value = st.floats(-9, -0.0078125, width=32)
    found = []
    for group in range(draw(st.integers(1, 4))):
        sides = [
            Answer(tuple(draw(st.lists(value, min_size=1, max_size=4))), draw(st.floats(-30, 0, width=32)), side, group)
            for side in (1.0, 0.0)
        ]
        found.append((sides[0], sides[1]))
    return found


ALL = [(name, loss) for name, losses in LOSSES.items() if name != "kto" for loss in losses]


@given(found=pairs(), data=st.data())
def test_neither_order_nor_division_changes_a_sum(found: list[tuple[Answer, Answer]], data: st.DataObject) -> None:
    """Of whatever pairs: sums of microbatches add up, and answers may stand in any order; every loss is finite."""
    name, loss = data.draw(st.sampled_from(ALL))
    own = objective(name, loss)
    flat = [answer for pair in found for answer in pair]
    shuffled = data.draw(st.permutations(flat))
    has = own.has_reference
    whole = own.function(*targets_of(flat, has_reference=has))
    mixed = own.function(*targets_of(shuffled, n_fillers=3, has_reference=has))
    parts = [own.function(*targets_of([attrs.evolve(a, group=0) for a in pair], has_reference=has)) for pair in found]

    assert math.isfinite(float(whole[0]))
    assert float(whole[1]) == len(found) == sum(float(count) for _, count in parts)
    assert float(mixed[0]) == pytest.approx(float(whole[0]), rel=1e-5, abs=1e-5)
    assert sum(float(total) for total, _ in parts) == pytest.approx(float(whole[0]), rel=1e-5, abs=1e-5)
    logprobs, targets = targets_of(flat, has_reference=has)
    gradient = np.asarray(mx.grad(lambda values: own.function(values, targets)[0])(logprobs))
    assert np.isfinite(gradient).all()
    if loss in ("sigmoid", "sigmoid_norm", "robust", "simpo", "apo_zero", "bco_pair"):
        is_chosen = np.asarray(targets.columns[PREFERRED])[np.asarray(targets.example)]
        signs = np.where(is_chosen > 0, -1, 1)[:-1]
        assert (gradient[:-1] * signs >= 0).all(), "better answers become likelier, worse ones less likely"


@given(found=pairs(), data=st.data())
def test_kto_learns_of_each_answer_by_itself(found: list[tuple[Answer, Answer]], data: st.DataObject) -> None:
    """Of whatever answers: any order gives the same sum, wanted ones become likelier, mismatched ones learn nothing."""
    name = data.draw(st.sampled_from(LOSSES["kto"]))
    own = objective("kto", name)
    marks = st.floats(0, 1, width=32).map(round)
    flat = [attrs.evolve(a, mismatched=float(data.draw(marks))) for pair in found for a in pair]
    whole = own.function(*targets_of(flat))
    mixed = own.function(*targets_of(data.draw(st.permutations(flat)), n_fillers=3))
    logprobs, targets = targets_of(flat)
    gradient = np.asarray(mx.grad(lambda values: own.function(values, targets)[0])(logprobs))
    of_token = np.asarray(targets.example)[:-1]
    is_own = 1 - np.array([answer.mismatched for answer in flat])[of_token]
    signs = np.where(np.array([answer.preferred for answer in flat])[of_token] > 0, -1, 1)

    assert float(whole[1]) == sum(1 - answer.mismatched for answer in flat)
    assert 0 <= float(whole[0]) <= float(whole[1]) * (1 + 1e-6)
    assert [float(value) for value in mixed] == pytest.approx([float(value) for value in whole], rel=1e-4, abs=1e-5)
    assert np.isfinite(gradient).all()
    assert (gradient[:-1] * signs * is_own >= 0).all()
    np.testing.assert_array_equal(gradient[:-1][is_own == 0], 0)


@given(st.floats(-60, -(2.0**-20), width=32))
def test_logarithms_near_their_ends(x: float) -> None:
    """Both logarithms keep their digits on all of their range, and their gradients are numbers."""
    assert float(log1mexp(mx.array(x))) == pytest.approx(math.log(-math.expm1(x)), rel=1e-4, abs=1e-7)
    assert float(log_sigmoid(mx.array(x))) == pytest.approx(x - math.log1p(math.exp(x)), rel=1e-5)
    assert math.isfinite(float(mx.grad(log1mexp)(mx.array(x))))


def test_ratios_of_long_answers_are_those_of_double_precision() -> None:
    """Sums of -3,000 nats have a last digit of 2e-4 in float32: a kept reference would move losses by as much."""
    random = np.random.default_rng(0)
    reference = random.uniform(-30, 0, 200).astype(np.float32)
    policy = (reference + random.normal(0, 0.01, 200)).astype(np.float32)
    long = Answer(tuple(map(float, policy)), float(reference.astype(np.float64).sum()), 1.0, 0)
    logprobs, targets = targets_of([long, attrs.evolve(long, preferred=0.0)], n_fillers=0)
    live = find_reference(mx.array(np.tile(reference, 2)), targets)
    wanted = (policy.astype(np.float64) - reference).sum()

    for columns in (targets.columns, {**targets.columns, **live}):
        found = find_answers(logprobs, targets._replace(columns=columns)).ratios
        assert found.tolist() == pytest.approx([wanted] * 2, abs=1e-6)
