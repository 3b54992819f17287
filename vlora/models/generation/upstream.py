"""Prepares questions as mlx-vlm's own generation does, which users run after training."""

import mlx.nn as nn
from mlx_vlm.utils import prepare_inputs

from ...errors import AnswerError
from ...types import Sample
from ..encode.encoder import Encoder
from ..foreign import foreign, name_failure
from .questions import split_question


def check_question(module: nn.Module, encoder: Encoder, sample: Sample) -> None:
    """Prepare a question as mlx-vlm's generation does, without asking it.

    Args:
        module: The model, with any weights.
        encoder: Renders the question as in training.
        sample: A conversation; what follows the first answer is left out.

    Raises:
        SampleError: The question or one of its images cannot be read.
        AnswerError: mlx-vlm fails before it calls the model, and will fail for the user, too.
    """
    question, answer = split_question(encoder.write_boxes(sample))
    prompt, _ = encoder.ask(question, answer)
    images = encoder.open_images(question)
    with foreign(lambda error: AnswerError(f"cannot be asked through mlx-vlm: {name_failure(error)}")):
        prepare_inputs(
            encoder.processor,
            images=images or None,
            prompts=prompt,
            image_token_index=getattr(module.config, "image_token_index", None),
        )
