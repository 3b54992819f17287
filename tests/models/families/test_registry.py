"""Every family is trained right: the checks of tests/prove.py on a dozen families, and on all of them when asked."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.families import FAMILIES
from tests.prove import CHECKS, Subject, make_subject, model_type, prove_apart
from vlora.models.families import registry
from vlora.models.families.family import Family
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
HEAVY = ("phi3_v", "qwen3_5", "qwen4_exp")
"""Those whose tower is always of its published size, whose attention takes long to trace, or that are not compiled:
they are run with `python -m pytest -m slow`."""


def with_heavy_ones_marked(families: Iterable[str]) -> list[Any]:
    """Give families as parameters of a test."""
    return [pytest.param(family, marks=pytest.mark.slow) if family in HEAVY else family for family in families]


@functools.lru_cache(maxsize=1)
def subject_of(family: str) -> Subject:
    return make_subject(family)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", with_heavy_ones_marked(REPRESENTATIVE))
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


def test_a_difference_is_of_the_models_that_have_it() -> None:
    """Where mlx-vlm is said to generate otherwise, there is a tiny model that shows it, of the family's own name."""
    shown = {model_type(name) for name, tiny in FAMILIES.items() if family_of(name).difference(tiny.config)}

    assert shown == {name for name, family in DESCRIBED.items() if family.upstream_differs}


def test_mixtures_of_gemma4_differ() -> None:
    """Images see themselves whole in the mixtures only, which share their architecture with models that do not."""
    assert family_of("gemma4_moe").difference(FAMILIES["gemma4_moe"].config)
    assert not family_of("gemma4").difference(FAMILIES["gemma4"].config)


def test_every_lineage_is_registered() -> None:
    """No family is in two files, and a file's families are found without a list of files."""
    files = [file.read_text() for file in Path(registry.__file__).parent.glob("*.py")]
    described = re.findall(r'^    "(\w+)": Family\(', "".join(files), flags=re.MULTILINE)

    assert sorted(described) == sorted(DESCRIBED)


def family_of(name: str) -> Family:
    """A tiny model's family."""
    return describe_family(model_type(name))
