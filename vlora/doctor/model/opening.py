"""A model opened as a run opens it, with short rows that are made here."""

from typing import Any

import attrs
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image, ImageDraw

from ...build import Data, load_data, load_model
from ...errors import CheckError, SampleError
from ...memory.limits import GIGA, naming_shortage
from ...ops.parameters import count_parameters
from ...recipe.schema import Recipe
from .subject import Subject

MEGA = 1e6

N_NEEDED = 2
"""Of the rows: those with one image and one question, which every model has to read."""


def make_rows() -> list[dict[str, Any]]:
    """Make rows of a few words with small images of several sizes, an answer of several tokens in each.

    The first `N_NEEDED` are such as every model reads. The others have two questions, and no image.
    """
    return [
        {"image": draw((96, 64), "crimson"), "question": "Which colour is it?", "answer": "It is crimson red."},
        {
            "image": draw((64, 112), "navy"),
            "question": "Describe the picture in one sentence, and name all of its colours.",
            "answer": "A white disc lies on a navy blue ground, to the left of the middle.",
        },
        {
            "image": draw((80, 80), "olive"),
            "messages": [
                {"role": "user", "content": "<image>What is drawn?"},
                {"role": "assistant", "content": "A white disc."},
                {"role": "user", "content": "On which ground?"},
                {"role": "assistant", "content": "On olive green."},
            ],
        },
        {"question": "How many days has a week?", "answer": "A week has seven days."},
    ]


def draw(size: tuple[int, int], colour: str) -> Image.Image:
    """Draw a white disc on a coloured ground, with noise: no part of it is like another."""
    image = Image.new("RGB", size, colour)
    width, height = size
    ImageDraw.Draw(image).ellipse((width // 8, height // 4, width // 2, 3 * height // 4), fill="white")
    noise = np.random.default_rng(len(colour)).integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(image).astype(np.int64) + noise).clip(0, 255).astype(np.uint8))


def open_subject(recipe: Recipe) -> tuple[Subject, Data]:
    """Open a recipe's model as a run does: its files, its processor, its weights, and the adapter that is trained.

    Raises:
        VloraError: It cannot be opened or trained.
    """
    data = load_data(recipe, rows=make_rows())
    with naming_shortage("loading the model"):
        backbone, config = load_model(recipe, data.files)
        mx.eval(backbone.module.parameters())
    quantized = config.get("base_quantization") or {}
    subject = Subject(backbone=backbone, config=config, lora=recipe.lora, quantized=quantized, encoder=data.encoder)
    subject.begin()
    return subject, data


def describe_model(subject: Subject, data: Data) -> str:
    """Say what was opened."""
    module = subject.backbone.module
    arrays = [value for _, value in tree_flatten(module.parameters())]
    types = sorted({str(value.dtype).rpartition(".")[2] for value in arrays})
    n_bytes = sum(value.nbytes for value in arrays)
    size = f"{n_bytes / GIGA:.2f} GB" if n_bytes > GIGA else f"{n_bytes / MEGA:.2f} MB"
    n_trained = sum(value.size for value in subject.params.values())
    return (
        f"{data.files.model_type}, {count_parameters(module):,} parameters in {size} "
        f"({', '.join(types)}), {n_trained:,} of them trained"
    )


def encode_rows(subject: Subject, data: Data) -> list[str]:
    """Encode the rows, and give why some of those that not every model reads are left out.

    Raises:
        SampleError: A row cannot be read that every model has to read.
    """
    encoder, refused = data.encoder, []
    encoder.prepare(data.train.first_samples())
    spell = encoder.tokenizer.convert_ids_to_tokens
    for index in range(len(data.train)):
        try:
            sample = data.train[index]
            example = encoder(sample)
            subject.backbone.vocabulary().check(example, spell)
        except SampleError as error:
            if index < N_NEEDED:
                raise
            refused.append(str(error))
            continue
        subject.samples.append(sample)
        subject.examples.append(example)
    if not subject.examples[0].inputs:
        msg = "the processor makes nothing of an image; preprocessor_config.json is missing or wrong, copy the model's"
        raise CheckError(msg)
    return refused


def find_bad_weights(subject: Subject) -> list[str]:
    """Name the weights that hold a number that is none, in the model's order."""
    found = []
    for name, value in tree_flatten(subject.backbone.module.parameters()):
        # One after the other: their marks together would take half as much memory as the model.
        if mx.issubdtype(value.dtype, mx.floating) and not mx.isfinite(value).all().item():
            n_bad = int(value.size - mx.isfinite(value).sum().item())
            # An adapter holds the layer that was there under this name.
            found.append(f"{name.replace('.linear.', '.')} ({n_bad:,} of {value.size:,})")
    return found


def without_rows(recipe: Recipe) -> Recipe:
    """Let a recipe learn answers only and keep no features: its rows are made here."""
    data = attrs.evolve(recipe.data, train_on_completions=True)
    return attrs.evolve(recipe, data=data, features=attrs.evolve(recipe.features, cache=False))
