"""Answers: the trained model asked through mlx-vlm's own generation."""

from collections.abc import Iterator, Sequence
from typing import Any

from mlx_vlm import generate

from ..recipe import EvalSection
from ..types import ImageSlot, Sample
from .backbone import MlxVlmBackbone
from .encoding import Encoder
from .loading import generating


def answer_samples(
    backbone: MlxVlmBackbone, encoder: Encoder, samples: Sequence[Sample], section: EvalSection
) -> Iterator[tuple[str, str]]:
    """Ask the model the first question of each sample.

    Args:
        backbone: The model, trained weights bound.
        encoder: Renders the question as in training.
        samples: Conversations; what follows the first answer is left out.
        section: The recipe's section.

    Yields:
        (expected, answered), both stripped.
    """
    processor: Any = encoder.processor
    with generating(backbone) as model:
        for sample in samples:
            first = next(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
            question = Sample(source=sample.source, turns=sample.turns[:first], images=sample.images)
            shown = sum(isinstance(part, ImageSlot) for turn in question.turns for part in turn.parts)
            prompt = encoder.prompt(question)
            images = encoder.open_images(question, shown)
            result = generate(
                model,
                processor,
                prompt,
                image=images or None,
                max_tokens=section.max_new_tokens,
                temperature=0.0,
                verbose=False,
            )
            yield sample.turns[first].text.strip(), result.text.strip()
