"""What the model's loss is before it has learned anything, and whether that is no better than guessing.

A model that was pretrained finds most tokens of sensible answers likelier than one in many thousands. Where its chat
template, its weights or its positions are not those that it was made with, it does not, and fine-tuning would teach it
to speak before it teaches the task. The rule: a loss of more than three quarters of the logarithm of the number of
tokens, which is the loss of guessing evenly among all of them, is no better than guessing.

Nothing is computed for it: it is the loss of the validation before the first step, or, without rows to validate on,
that of the first step, which is measured before the step changes anything.
"""

import math
from collections.abc import Iterator

from ..build import BUILTIN_MODEL
from ..events import Untrained
from .context import RunContext

SHARE = 0.75
"""Of the loss of guessing, beyond which a loss is not clearly below it."""


def tell_untrained(run: RunContext, loss: float, *, is_held_out: bool) -> Iterator[Untrained]:
    """Say once what the loss of a run that begins is before its first step.

    Args:
        run: The run.
        loss: In nats per supervised token.
        is_held_out: Whether it is that of the rows to validate on, and not that of the first step's.
    """
    if run.has_told_untrained or run.found is not None or run.recipe.train.objective != "sft":
        return
    run.has_told_untrained = True
    n_tokens = run.backbone.vocabulary().n_written or len(run.data.encoder.tokenizer)
    guessing = math.log(n_tokens)
    yield Untrained(
        loss=loss,
        is_held_out=is_held_out,
        n_tokens=n_tokens,
        guessing=guessing,
        is_guessing=loss > SHARE * guessing,
        is_random=run.recipe.model.path == BUILTIN_MODEL,
    )
