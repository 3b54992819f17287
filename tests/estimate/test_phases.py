"""What validations and answers take, predicted from shapes, beside what they take."""

import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks.memory import Case, run_case
from benchmarks.shapes import SHAPES
from tests.families import FAMILIES
from tests.prove import make_subject
from vlora import collate, parse_recipe
from vlora.estimate.caches import find_arrays
from vlora.estimate.phases import Phase, plan_answers, plan_validation
from vlora.estimate.planner import Planner
from vlora.models import MlxVlmBackbone, Prompt, Sampler, generating
from vlora.models.generation.decode import embed_prompts

ROOM = 5
TOLERANCE = 0.3
"""On so small a model chance decides how much is queued; benchmarks/memory.py holds larger ones to 0.2."""

QUICK = ("llava", "minimax_m3_vl", "qwen3_5", "qwen3_vl")
"""Families that keep keys, states or nothing; the others come with `python -m pytest -m families`."""


@pytest.mark.parametrize("phase", ["validation", "answers"])
def test_predicted_is_measured(phase: str) -> None:
    """The predicted peak is near the measured one, the state of the training included."""
    keys = {"lora.rank": 8}
    case = Case(shape=SHAPES["tiny"], rows=4, tokens=129, supervised=8, dtype="float32", keys=keys, phase=phase)
    result = run_case(case)

    assert result["ratio"] == pytest.approx(1, abs=TOLERANCE), result


def plan_family(family: str) -> tuple[MlxVlmBackbone, Planner, list[Prompt], Phase]:
    """Plan the answers of a tiny model."""
    subject = make_subject(family)
    recipe = parse_recipe("", {"data.path": "none", "model.path": family})
    prompts = [Prompt(example, int(np.argmax(example.supervised))) for example in subject.examples]
    planner = Planner(recipe, subject.backbone, 2**40)
    return subject.backbone, planner, prompts, plan_answers(planner, prompts, ROOM, "rows")


def count_kept(backbone: MlxVlmBackbone, prompts: list[Prompt]) -> int:
    """Count the bytes of what layers keep at the end of answers."""
    reading = backbone.family.forward.reading
    if reading == "equal":
        prompts = [max(prompts, key=lambda prompt: prompt.length)] * len(prompts)
    with generating(backbone):
        reader = embed_prompts(backbone, prompts, ROOM, reading)
        choose, logits = Sampler(names=[""] * len(prompts)), reader.prompts()
        for number in range(ROOM - 1):
            logits = reader.after(choose(logits, number), number)
    return sum(value.nbytes for value in find_arrays(reader.caches))


def check(family: str) -> None:
    """Compare what a plan says with what is kept, and the model after the plan with that before it."""
    backbone, planner, prompts, phase = plan_family(family)
    modes = [child.training for child in backbone.module.modules()]
    before = [value for _, value in tree_flatten(backbone.module.parameters())]
    batch = collate([prompt.example for prompt in prompts])
    validation = plan_validation(planner, batch, "rows")
    weights = sum(value.nbytes for value in before)
    kept = count_kept(backbone, prompts)

    assert all(planned.nbytes > weights or planned.unplanned for planned in (phase, validation))
    assert kept <= phase.kept <= 1.5 * kept + 64 or phase.unplanned
    assert (phase.n_rows, phase.n_new_tokens) == (len(prompts), ROOM)
    assert modes == [child.training for child in backbone.module.modules()]
    after = [value for _, value in tree_flatten(backbone.module.parameters())]
    assert all(one is other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("family", QUICK)
def test_answers_of_families_are_planned(family: str) -> None:
    """What layers keep is counted whole, and planning leaves nothing behind in the model."""
    check(family)


@pytest.mark.families
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(QUICK)))
def test_answers_of_every_family_are_planned(family: str) -> None:
    """The same for all other families."""
    check(family)


def test_longer_answers_and_more_questions_take_more() -> None:
    """What is kept grows with both."""
    _, planner, prompts, phase = plan_family("qwen3_vl")
    longer = plan_answers(planner, prompts, 40 * ROOM, "rows")
    more = plan_answers(planner, prompts * 2, ROOM, "rows")

    assert longer.kept > 2 * phase.kept
    assert more.kept >= 2 * phase.kept - 64
    assert min(longer.nbytes, more.nbytes) > phase.nbytes
