"""Every family is trained right: the checks of tests/prove.py on a dozen families, and on all of them when asked."""

import functools

import pytest

from tests.families import FAMILIES
from tests.prove import CHECKS, Subject, make_subject, model_type, prove_apart
from vlora.models.families.differences import DIFFERENCES
from vlora.models.families.registry import FAMILIES as DESCRIBED
from vlora.models.families.registry import describe_family

REPRESENTATIVE = (
    "deepseek_vl_v2",  # experts; a tower's features in tiles
    "fastvlm",  # images that expand within the model
    "florence2",  # an encoder and a decoder
    "glm_ocr",  # positions that only stay on the model
    "llava",  # nothing of its own but the merging
    "mllama",  # cross-attention
    "moondream2",  # a mask of its own
    "phi3_v",  # a language model that holds the tower
    "pixtral",  # images of any size
    "qwen3_5",  # linear attention
    "qwen3_vl",  # a grid, and features in deeper layers
    "qwen4_exp",  # not compiled; layers that only choose
)
"""Families that differ in what has to be done for them; the others are run with `python -m pytest -m families`."""


@functools.lru_cache(maxsize=1)
def subject_of(family: str) -> Subject:
    return make_subject(family)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", REPRESENTATIVE)
def test_representative_family_holds(family: str, check: str) -> None:
    """A check of the proof holds for a family."""
    try:
        CHECKS[check](subject_of(family))
    except BaseException:
        subject_of.cache_clear()  # a model whose trace failed is of no use to the next check
        raise


@pytest.mark.families
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(REPRESENTATIVE)))
def test_every_family_holds(family: str) -> None:
    """All checks hold for a family, in a process of its own."""
    failed = {check: result["remark"] for check, result in prove_apart(family).items() if result["holds"] != "yes"}
    assert not failed


def test_what_is_refused_is_not_described() -> None:
    """No tiny model stands for a family that vlora refuses, and every refusal gives its reason."""
    refused = {name for name, family in DESCRIBED.items() if family.refused is not None}

    assert not refused & {model_type(name) for name in FAMILIES}
    assert all(len(str(describe_family(name).refused)) > 20 for name in refused)


def test_every_treatment_is_proved() -> None:
    """Every family that vlora treats in a way of its own has a tiny model on which that is proved."""
    treated = {name for name, family in DESCRIBED.items() if family.refused is None}

    assert treated <= {model_type(name) for name in FAMILIES}


def test_differences_are_of_families() -> None:
    """Where mlx-vlm is said to generate otherwise, there is a tiny model that shows it."""
    assert set(DIFFERENCES) <= set(FAMILIES)
