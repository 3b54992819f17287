"""Models that are opened for their checks, and the rows that are made for them."""

from pathlib import Path

import mlx.core as mx
import pytest

from tests.checkpoints import build_checkpoint
from vlora import parse_recipe
from vlora.build import Data
from vlora.doctor.model.opening import (
    N_NEEDED,
    describe_model,
    encode_rows,
    find_bad_weights,
    make_rows,
    open_subject,
    without_rows,
)
from vlora.doctor.model.subject import Subject
from vlora.errors import SampleError


def opened(family: str, folder: Path) -> tuple[Subject, Data]:
    """Open a tiny checkpoint."""
    keys = {"model.path": str(build_checkpoint(family, folder / family)), "data.path": "rows"}
    return open_subject(without_rows(parse_recipe("", {**keys, "output.path": str(folder / "run")})))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Data]:
    """One model, opened once; no test changes it for good."""
    return opened("llava", tmp_path_factory.mktemp("llava"))


def test_rows_differ_in_all_that_a_batch_has_to_keep_apart() -> None:
    """In the sizes of their images, in turns, and in whether there is an image."""
    rows = make_rows()
    sizes = [row["image"].size for row in rows if "image" in row]

    assert len(set(sizes)) == len(sizes) == len(rows) - 1
    assert all("image" in row and "question" in row for row in rows[:N_NEEDED])
    assert any("messages" in row for row in rows)


def test_a_model_is_opened_as_a_run_opens_it(llava: tuple[Subject, Data]) -> None:
    """It has its adapter, answers alone are learned, and it is described by its numbers."""
    subject, data = llava

    assert subject.encoder is data.encoder
    assert data.encoder.data.train_on_completions
    assert subject.config["fine_tune_type"] == "lora"
    assert describe_model(subject, data) == ("llava, 169,792 parameters in 0.68 MB (float32), 16,384 of them trained")


def test_rows_that_a_model_does_not_read_are_left_out(tmp_path: Path, llava: tuple[Subject, Data]) -> None:
    """A family that reads one question on an image says why it does not read the others; most read all."""
    subject, data = opened("paligemma", tmp_path)
    refused = encode_rows(subject, data)

    assert len(refused) == 2
    assert "has no image" in refused[1]
    assert len(subject.examples) == len(subject.samples) == 2

    assert encode_rows(*llava) == []
    assert len(llava[0].examples) == 4


def test_a_row_that_every_model_has_to_read_is_an_error(tmp_path: Path) -> None:
    """A head that is shorter than the tokenizer is found by the first row that learns a token beyond it."""
    subject, data = opened("qwen2_vl", tmp_path)
    head = subject.backbone.module.language_model.lm_head
    head.weight = head.weight[:64]

    with pytest.raises(SampleError, match="is beyond the model's head, which has 64 rows; take the tokenizer"):
        encode_rows(subject, data)


def test_weights_that_are_no_numbers_are_named(llava: tuple[Subject, Data]) -> None:
    """By the name that they have in the model's file."""
    subject, _ = llava
    layer = subject.backbone.module.language_model.model.layers[1].mlp.up_proj.linear
    weight = layer.weight

    assert not find_bad_weights(subject)

    layer.weight = mx.concatenate([weight[:-1], mx.full((1, weight.shape[1]), float("inf"))])
    found = find_bad_weights(subject)
    layer.weight = weight

    assert found == [f"language_model.model.layers.1.mlp.up_proj.weight ({weight.shape[1]} of {weight.size:,})"]
