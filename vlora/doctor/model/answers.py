"""Answers: those of a batch are those of each question alone, and of the forward that is trained."""

from collections.abc import Sequence

import attrs
import mlx.core as mx
import numpy as np

from ... import models
from ...data.collate import collate
from ...errors import CheckError, SampleError
from ...models.generation.decode import Prompt, decode
from ...train.state import bound_params
from ...types import FloatArray, IntArray
from .subject import OTHER_SHAPE, Subject, bounded, share_of

ROOM = 6
"""Tokens of an answer."""


def check_answers(subject: Subject) -> str:
    """Read the rows' own answers token by token: each is chosen by the logits of training, in a batch and alone.

    The rows' tokens are read and not those that the model would choose, which rounding may decide. In float32 the
    model's own answers are compared, too.
    """
    backbone, prompts = subject.backbone, [_ask(subject, row) for row in range(len(subject.examples))]
    with bound_params(backbone.module, subject.params), models.generating(backbone):
        trained = [_by_training(backbone, prompt) for prompt in prompts]
        alone = [_read(backbone, [prompt])[0] for prompt in prompts]
        if backbone.family.forward.reading == "equal":
            together = [_read(backbone, [prompt, prompt])[0] for prompt in prompts]
        else:
            together = _read(backbone, prompts)
        texts = _compare_texts(subject)
    worst, most = 0.0, OTHER_SHAPE[subject.precision]
    for prompt, expected, *found in zip(prompts, trained, alone, together, strict=True):
        for how, logits in zip(("alone", "in a batch"), found, strict=True):
            problem = (
                f"the logits by which {prompt.example.source} is answered {how} {{found}}, compared with those of "
                "training; set eval.answer_rows = 0 to train without answers, and report it"
            )
            worst = max(worst, bounded(share_of(logits, expected), most, problem))
    return f"{len(prompts)} questions, in a batch and alone; off from training by {worst:.1e}{texts}"


def _ask(subject: Subject, row: int) -> Prompt:
    example = subject.examples[row]
    return Prompt(example, int(np.argmax(example.supervised)))


def _answer_of(prompt: Prompt) -> IntArray:
    """Give the row's own answer, up to the first token that is not learned."""
    behind = prompt.example.supervised[prompt.length :]
    n_tokens = len(behind) if behind.all() else int(np.argmin(behind))
    return prompt.example.tokens[prompt.length :][: min(n_tokens, ROOM)]


def _read(backbone: models.MlxVlmBackbone, prompts: Sequence[Prompt]) -> list[FloatArray]:
    """Read questions and their own answers as answers are read: f[N, V] of each, by which its N tokens are chosen."""
    answers = [_answer_of(prompt) for prompt in prompts]
    seen: list[FloatArray] = []

    def choose(logits: mx.array, number: int) -> IntArray:
        seen.append(np.array(logits.astype(mx.float32)))
        return np.array([answer[min(number, len(answer) - 1)] for answer in answers], dtype=np.int32)

    decode(backbone, prompts, ROOM, choose, ())
    return [np.stack([logits[row] for logits in seen[: len(answer)]]) for row, answer in enumerate(answers)]


def _by_training(backbone: models.MlxVlmBackbone, prompt: Prompt) -> FloatArray:
    """Compute the same logits in one forward, as in training."""
    batch = collate([prompt.example])
    places = prompt.length - 1 + np.arange(len(_answer_of(prompt)), dtype=np.int32)
    with backbone.overrides():
        logits = backbone.logits(batch.tokens, *backbone.embed(batch), mx.array(places))
        return np.array(logits.astype(mx.float32))


def _compare_texts(subject: Subject) -> str:
    """Let the model answer by itself, in a batch and one by one.

    Raises:
        CheckError: An answer differs in float32, in which no rounding decides.
    """
    if subject.encoder is None:
        return ""
    options = models.AnswerOptions(max_new_tokens=ROOM, batch_size=len(subject.samples))
    together, alone = (_answer(subject, attrs.evolve(options, batch_size=size)) for size in (len(subject.samples), 1))
    n_equal = sum(map(str.__eq__, together, alone))
    if n_equal < len(alone) and subject.precision == "float32":
        row = next(row for row, text in enumerate(alone) if text != together[row])
        msg = (
            f"{subject.samples[row].source} is answered with {alone[row]!r} alone and {together[row]!r} in a batch; "
            "set eval.batch_size = 1, and report it"
        )
        raise CheckError(msg)
    return f"; {n_equal} of {len(alone)} texts are equal"


def _answer(subject: Subject, options: models.AnswerOptions) -> list[str]:
    assert subject.encoder is not None  # noqa: S101 - the caller has looked
    answerer = models.Answerer(backbone=subject.backbone, encoder=subject.encoder, options=options)
    texts = []
    for found in answerer.answer(range(len(subject.samples)), lambda row: subject.samples[row]):
        if isinstance(found, SampleError):
            raise found
        texts.append(found.text)
    return texts
