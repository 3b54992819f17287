"""Masks that do not cover an answer and its end are found."""

from typing import Any

import attrs
import numpy as np
import pytest

from tests.checking import subject_of
from tests.checkpoints import build_checkpoint
from vlora import parse_recipe
from vlora.doctor.model.masks import check_masks, find_runs
from vlora.doctor.model.opening import encode_rows, open_subject, without_rows
from vlora.doctor.model.subject import LeftOut, Subject
from vlora.errors import CheckError
from vlora.types import Example


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model with its rows."""
    folder = tmp_path_factory.mktemp("masks")
    keys = {"model.path": str(build_checkpoint("qwen2_vl", folder / "model")), "data.path": "rows"}
    found, data = open_subject(without_rows(parse_recipe("", {**keys, "output.path": str(folder / "run")})))
    encode_rows(found, data)
    return found


def changed(subject: Subject, **fields: Any) -> Subject:
    """Give the subject with other rows or another encoder."""
    return attrs.evolve(subject, **fields)


def unsupervised(example: Example, place: int) -> Example:
    """Leave a learned token out, counted from the end of the row's learned ones."""
    supervised = example.supervised.copy()
    supervised[np.flatnonzero(supervised)[place]] = False
    return attrs.evolve(example, supervised=supervised)


def test_answers_and_their_ends_are_learned(subject: Subject) -> None:
    """The figures are those of the rows, and the end is named."""
    found = str(check_masks(subject))

    assert "tokens of 4 rows are learned; answers end with <|im_end|>" in found
    assert len(find_runs(subject.examples[2])) == 2


def test_an_answer_without_its_end_is_found(subject: Subject) -> None:
    """A model that never learns to end says so before it is trained."""
    examples = [unsupervised(example, -1) for example in subject.examples]

    with pytest.raises(CheckError, match="which does not end with a token at which generation ends"):
        check_masks(changed(subject, examples=examples))


def test_an_end_that_is_not_the_models_is_found(subject: Subject) -> None:
    """Where generation ends at another token, the error names it and the file."""
    assert subject.encoder is not None
    encoder = attrs.evolve(subject.encoder, stop_ids=(5,))

    with pytest.raises(CheckError, match=r"correct eos_token_id in generation_config\.json"):
        check_masks(changed(subject, encoder=encoder))


def test_a_part_of_an_answer_is_found(subject: Subject) -> None:
    """A hole in an answer makes two stretches, a lost beginning another text."""
    first = subject.examples[0]

    with pytest.raises(CheckError, match="2 stretches of tokens are learned of 1 answers"):
        check_masks(changed(subject, examples=[unsupervised(first, 3)], samples=subject.samples[:1]))
    with pytest.raises(CheckError, match="is learned of the answer 'It is crimson red"):
        check_masks(changed(subject, examples=[unsupervised(first, 0)], samples=subject.samples[:1]))


def test_without_a_processor_nothing_is_said() -> None:
    """There are no texts to compare."""
    assert check_masks(subject_of("llava")) == LeftOut("there is no processor")
