"""Lengths without decoding, and what they are for: batches of rows of like length, every row once."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import FAMILIES
from tests.training import mixed_rows, picture, rows_for
from vlora import fit, models, parse_recipe
from vlora.data.format.samples import format_sample
from vlora.data.opening import read_rows
from vlora.errors import RecipeError
from vlora.events import Event, Reported, StepReport
from vlora.recipe.schema import DataSection

CheckpointFactory = Callable[[str], Path]


EncoderFactory = Callable[..., models.Encoder]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lengths_are_the_encoder_own(family: str, encoder: EncoderFactory) -> None:
    """An estimate is the encoded row's length, exact for text and within what rounding a size up makes of an image."""
    encode = encoder(family, train_on_completions=True)
    estimate = models.LengthEstimator(encode)
    for number, row in enumerate(rows_for(encode.family)):
        sample = format_sample(row, f"row {number}")
        own = len(encode(sample).tokens)
        found = estimate(sample)
        if encode.family.format.is_encoder_decoder or not sample.images:
            assert abs(found - own) <= 2
        else:
            assert own / 2 <= found <= 3 * own + 8


def test_images_are_not_decoded(encoder: EncoderFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's length comes from its image's header; the processor is asked once per size, with a blank image."""
    encode = encoder("qwen3_vl", train_on_completions=True)
    samples = []
    for number in range(6):
        path = tmp_path / f"{number}.jpg"
        picture(64 if number % 2 else 96, 64, number).save(path)
        samples.append(format_sample({"image": str(path), "question": "What?", "answer": "It is."}, "row"))
    expected = [len(encode(sample).tokens) for sample in samples]
    n_calls = 0
    whole = type(encode).encode_untruncated

    def counted(self: models.Encoder, sample: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return whole(self, sample)

    monkeypatch.setattr(type(encode), "encode_untruncated", counted)
    for name in ("load", "convert"):
        original = getattr(Image.Image, name)

        def checked(self: Image.Image, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            assert not getattr(self, "filename", ""), "a file was decoded"
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Image.Image, name, checked)
    estimate = models.LengthEstimator(encode)

    assert [estimate(sample) for sample in samples] == expected
    assert n_calls == 2


def run_grouped(folder: Path, model: Path, rows: Path, **options: Any) -> list[Event]:
    """Train on grouped rows."""
    keys = {
        "model.path": str(model),
        "data.path": str(rows),
        "data.on_bad_row": "skip",
        "data.train_on_completions": True,
        "train.batching": options.pop("batching", "grouped"),
        "train.batch_size": 2,
        "train.epochs": 2,
        "output.path": str(folder),
        **options.pop("keys", {}),
    }
    return list(fit(parse_recipe("", keys), **options))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows of very different lengths, one of them broken."""
    lines = []
    for number in range(9):
        picture(32, 32, number).save(tmp_path / f"{number}.png")
        answer = "it is " + "very " * (40 * (number % 3)) + str(number)
        lines.append({"question": f"What is {number}?", "answer": answer, "image": f"{number}.png"})
    lines[4]["image"] = "missing.png"
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_grouped_runs_resume_exactly(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """The steps of a run that was stopped in its second epoch are those of one that was not, threads or none."""
    model = checkpoint("qwen3_vl")

    def losses(events: Sequence[Event]) -> list[float]:
        return [event.loss for event in events if isinstance(event, StepReport)]

    straight = losses(run_grouped(tmp_path / "a", model, rows))
    calls = iter([False] * 6 + [True])
    first = run_grouped(tmp_path / "b", model, rows, should_stop=lambda: next(calls), keys={"data.workers": 0})
    second = run_grouped(tmp_path / "b", model, rows, resume=True)

    assert len(straight) == 10
    assert losses(first) + losses(second) == straight


def test_grouping_saves_padding(checkpoint: CheckpointFactory, rows: Path, tmp_path: Path) -> None:
    """Both say what share of their tokens was padding, and grouped rows have less."""
    found: dict[str, Any] = {}
    for batching in ("shuffled", "grouped"):
        events = run_grouped(tmp_path / batching, checkpoint("qwen3_vl"), rows, batching=batching)
        found[batching] = next(event.metrics for event in events if isinstance(event, Reported))["padding"]

    assert 0 < found["grouped"] < found["shuffled"] < 1


def test_grouping_needs_shuffling() -> None:
    """Rows whose order means something are not grouped."""
    with pytest.raises(RecipeError, match=r"train\.batching.*data\.shuffle"):
        parse_recipe("", {"data.path": "x", "data.shuffle": False, "train.batching": "grouped"})


def test_opening_rows_does_not_pass_over_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in a column, or in lists of one, stay bytes without the data set being written anew."""
    stream = io.BytesIO()
    picture(32, 32, 1).save(stream, format="PNG")
    image = {"bytes": stream.getvalue(), "path": None}
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "kind": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    table = datasets.Dataset.from_list(
        [
            {"question": str(number), "answer": "yes", "images": [image] * (number % 3), "kind": 1}
            for number in range(5)
        ],
        features=features,
    )
    table.save_to_disk(str(tmp_path / "saved"))

    def fail(*_: Any, **__: Any) -> None:
        message = "a pass over all rows"
        raise AssertionError(message)

    monkeypatch.setattr(datasets.Dataset, "map", fail)
    train, valid = read_rows(DataSection(path=str(tmp_path / "saved"), valid_fraction=0.4), seed=1)

    assert valid is not None
    assert (len(train), len(valid)) == (3, 2)
    samples = [rows[index] for rows in (train, valid) for index in range(len(rows))]
    assert sorted(sample.turns[0].text for sample in samples) == list("01234")
    assert {image["bytes"] for sample in samples for image in sample.images} == {stream.getvalue()}
    assert train.table[0]["kind"] == "b"


def test_mixed_rows_have_lengths(encoder: EncoderFactory) -> None:
    """Rows with several images, with system prompts and without images are all estimated; what is no row is 0 long."""
    encode = encoder("qwen3_vl", max_seq_length=40)
    estimate = models.LengthEstimator(encode)
    found = [estimate(format_sample(row, "row")) for row in mixed_rows()]

    assert all(0 < length <= 40 for length in found)
    assert np.ptp(found) > 0
