"""Answers: the trained model asked through mlx-vlm's own generation."""

from typing import Any

import mlx.nn as nn
from mlx_vlm import generate

from ..recipe import EvalSection
from ..types import ImageSlot, Sample
from .encoding import Encoder


def answer_sample(module: nn.Module, encoder: Encoder, sample: Sample, section: EvalSection) -> tuple[str, str]:
    """Ask the model the first question of a sample.

    Args:
        module: The model as `generating` gives it, trained weights bound.
        encoder: Renders the question as in training.
        sample: A conversation; what follows the first answer is left out.
        section: The recipe's section.

    Returns:
        (expected, answered), both stripped.

    Raises:
        SampleError: The question or one of its images cannot be read.
    """
    processor: Any = encoder.processor
    first = next(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
    question = Sample(source=sample.source, turns=sample.turns[:first], images=sample.images)
    shown = sum(isinstance(part, ImageSlot) for turn in question.turns for part in turn.parts)
    prompt = encoder.prompt(question)
    images = encoder.open_images(question, shown)
    result = generate(
        module,
        processor,
        prompt,
        image=images or None,
        max_tokens=section.max_new_tokens,
        temperature=0.0,
        verbose=False,
    )
    return sample.turns[first].text.strip(), result.text.strip()
