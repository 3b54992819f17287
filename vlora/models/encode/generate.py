"""Answers: the trained model asked through mlx-vlm's own generation."""

import attrs
import mlx.nn as nn
from mlx_vlm import generate
from mlx_vlm.utils import prepare_inputs
from PIL import Image

from ...errors import AnswerError, SampleError
from ...recipe.schema import EvalSection
from ...types import ImageSlot, Sample, Turn
from ..backbone.backbone import MlxVlmBackbone
from ..foreign import foreign
from ..load.loading import generating
from .encoder import Encoder

UNKNOWN = "?"
"""Stands where the answer of a question is not known."""

LONGEST_REASON = 200
"""Characters of what mlx-vlm said that an error repeats."""


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
        AnswerError: mlx-vlm cannot answer.
    """
    prompt, expected, images = _ask(encoder, sample)
    with foreign(_name_failure):
        result = generate(
            module,
            encoder.processor,
            prompt,
            image=images or None,
            max_tokens=section.max_new_tokens,
            temperature=0.0,
            verbose=False,
        )
    return expected.strip(), result.text.strip()


def answer(backbone: MlxVlmBackbone, encoder: Encoder, sample: Sample, *, max_new_tokens: int = 64) -> str:
    """Ask a trained model the first question of a sample.

    Args:
        backbone: The model; `bind` a state before, if the model does not hold what was learned.
        encoder: As `load_data` gives it: it renders the question as in training.
        sample: A conversation as `format_sample` gives it. What stands behind the first question is not shown to the
            model; a `Sample` of your own may end with the question.
        max_new_tokens: How long the answer may be.

    Returns:
        The answer, stripped.

    Raises:
        SampleError: There is no question, or it or one of its images cannot be read.
        AnswerError: mlx-vlm cannot answer.
    """
    if not sample.turns or all(turn.role == "assistant" for turn in sample.turns):
        msg = f"{sample.source}: there is no turn to answer; give one of the role 'user'"
        raise SampleError(msg)
    if all(turn.role != "assistant" for turn in sample.turns):
        # Templates show where an answer begins by one that stands there.
        sample = attrs.evolve(sample, turns=(*sample.turns, Turn("assistant", (UNKNOWN,))))
    with generating(backbone) as module:
        return answer_sample(module, encoder, sample, EvalSection(max_new_tokens=max_new_tokens))[1]


def check_question(module: nn.Module, encoder: Encoder, sample: Sample) -> None:
    """Prepare a question as mlx-vlm's generation does, without asking it.

    Args:
        module: The model, whatever it holds.
        encoder: As for `answer_sample`.
        sample: As for `answer_sample`.

    Raises:
        SampleError: The question or one of its images cannot be read.
        AnswerError: mlx-vlm fails before its model is asked, and so it will when the user asks.
    """
    prompt, _, images = _ask(encoder, sample)
    with foreign(_name_failure):
        prepare_inputs(
            encoder.processor,
            images=images or None,
            prompts=prompt,
            image_token_index=getattr(module.config, "image_token_index", None),
        )


def _ask(encoder: Encoder, sample: Sample) -> tuple[str, str, list[Image.Image]]:
    """Render the first question of a sample and the answer that it has there, and open its images."""
    sample = encoder.write_boxes(sample)
    first = next(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
    question = attrs.evolve(sample, turns=sample.turns[:first])
    shown = sum(isinstance(part, ImageSlot) for turn in question.turns for part in turn.parts)
    return *encoder.ask(question, sample.turns[first]), encoder.open_images(question, shown)


def _name_failure(error: Exception) -> AnswerError:
    """Make one sentence of whatever mlx-vlm and the code of models raise."""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}..."
    return AnswerError(f"cannot be asked through mlx-vlm: {type(error).__name__}{': ' * bool(said)}{said}")
