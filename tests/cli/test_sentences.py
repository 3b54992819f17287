"""The sentences about what was found before the first step, to the letter."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from vlora.cli.sentences import (
    describe_columns,
    describe_early,
    describe_head,
    describe_storage,
    describe_template,
)
from vlora.events import StoppedEarly
from vlora.facts import Columns, FeatureStorage, HeadUse, TemplateUse, UnnamedImages
from vlora.run.feature_cache import ROUNDED


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (Columns(), "none were read so far"),
        (
            Columns(used={"image": "image", "q": "as question: the question"}, unused=("id", "notes")),
            "image, q (as question: the question); not used: id, notes",
        ),
        (Columns(unused=("a",), missing=("pic", "x")), "none; not used: a; of data.columns in no row so far: pic, x"),
        (
            Columns(used={"a": "a"}, unnamed=UnnamedImages(n_images=1500, n_rows=2, n_unnamed=1498, first="b.png")),
            "a; not used: none; images that no row of the metadata names: 1,498, such as 'b.png'",
        ),
        (
            Columns(unnamed=UnnamedImages(n_images=30000, n_rows=25000, n_unnamed=None)),
            (
                "none were read so far; the folder has 30,000 images and its metadata 25,000 rows, so that some images "
                "may be in no row"
            ),
        ),
    ],
)
def test_columns(columns: Columns, expected: str) -> None:
    """Which are read and as what, which are not, and what no row has."""
    assert describe_columns(columns) == expected


def test_line_of_many_columns() -> None:
    """The line does not grow without end."""
    line = describe_columns(Columns(unused=tuple(map(str, range(100)))))

    assert line.endswith(" and 60 more")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TemplateUse(origin="none"), "none: a task on one image, and its answer"),
        (TemplateUse(origin="model", ending="<e>"), "the model's own; answers end with '<e>'"),
        (
            TemplateUse(origin="vlora", ending="<e>", adds_ending=True, ignores_assistant_id=True),
            "of vlora for this family; answers end with '<e>' (data.learn_end); data.assistant_id is not needed",
        ),
        (
            TemplateUse(origin="recipe", given="plain", replaces_own=True),
            "'plain', in place of the model's own; answers end as it writes them (data.learn_end)",
        ),
    ],
)
def test_templates(template: TemplateUse, expected: str) -> None:
    """Whose the template is, and how answers end."""
    assert describe_template(template) == expected


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (FeatureStorage(reason="features.cache = false"), "not kept: features.cache = false"),
        (
            FeatureStorage(memory_gb=8.8125, disk_gb=20, folder=Path("kept")),
            "kept, up to 8.81 GB in memory and up to 20 GB in kept",
        ),
        (FeatureStorage(disk_gb=0.5, folder=Path("kept")), "kept, up to 0.5 GB in kept"),
        (FeatureStorage(memory_gb=1, resumes_rounded=True), f"kept, up to 1 GB in memory; {ROUNDED}"),
    ],
)
def test_features(storage: FeatureStorage, expected: str) -> None:
    """Where they are kept, or why not."""
    assert describe_storage(storage) == expected


def test_heads() -> None:
    """One that runs in chunks needs no line."""
    assert describe_head(HeadUse(extent="chunks", module="lm_head")) is None
    assert describe_head(HeadUse(extent="all")) == (
        "at all tokens, supervised or not: no module gives the model's own logits at selected ones"
    )
    assert describe_head(HeadUse(extent="supervised", module="lm_head")) == (
        "at all supervised tokens of a batch at once, not in chunks: what lm_head takes is not what one module of "
        "layers gives"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the last 3 validations were not better than valid loss 0.1088 by more than 0.05; --resume"),
        ({"min_delta": 0.0, "n_stale": 1}, "the last validation was not better than valid loss 0.1088; --resume"),
        ({"judged_by": "eval_anls"}, "the last 3 rounds of answers were not better than eval anls 0.1088 by more"),
        ({"reference": None}, "the last 3 validations were not better; --resume"),
    ],
)
def test_why_a_run_stopped_early(changes: dict[str, Any], said: str) -> None:
    """What none was better than, which a later one may be by less than was asked for."""
    event = StoppedEarly(step=60, n_steps=200, n_stale=3, judged_by="valid_loss", reference=0.1088, min_delta=0.05)

    assert describe_early(event).startswith("stopped early after step 60 of 200: the last ")
    assert said in describe_early(attrs.evolve(event, **changes))
    assert describe_early(event).endswith("with a larger train.early_stopping_patience goes on")
