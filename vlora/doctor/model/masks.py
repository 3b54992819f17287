"""Which tokens of a row are learned: all of each answer and its end, and nothing else."""

from typing import Any

import numpy as np

from ...errors import CheckError
from ...types import Example, IntArray, Sample
from .subject import LeftOut, Subject


def check_masks(subject: Subject) -> str | LeftOut:
    """Spell what is learned of each row: it is each answer, and the token at which generation ends."""
    if subject.encoder is None:
        return LeftOut("there is no processor")
    stops: set[str] = set()
    for sample, example in zip(subject.samples, subject.examples, strict=True):
        stops |= _check_row(subject, sample, example)
    n_learned = sum(int(example.supervised.sum()) for example in subject.examples)
    n_tokens = sum(len(example.tokens) for example in subject.examples)
    ends = " or ".join(sorted(stops))
    return f"{n_learned} of {n_tokens} tokens of {len(subject.examples)} rows are learned; answers end with {ends}"


def _check_row(subject: Subject, sample: Sample, example: Example) -> set[str]:
    encoder = subject.encoder
    assert encoder is not None  # noqa: S101 - the caller has looked
    answers = [turn.text.strip() for turn in sample.turns if turn.role == "assistant"]
    runs = find_runs(example)
    if len(runs) != len(answers):
        msg = (
            f"{sample.source}: {len(runs)} stretches of tokens are learned of {len(answers)} answers; give "
            "data.chat_template, since the model's does not tell its answers apart"
        )
        raise CheckError(msg)
    stops = set()
    for answer, tokens in zip(answers, runs, strict=True):
        end = int(tokens[-1])
        if end not in encoder.stop_ids:
            msg = (
                f"{sample.source}: {_spell(encoder.tokenizer, tokens)!r} is learned, which does not end with a token "
                f"at which generation ends ({_name(encoder.tokenizer, encoder.stop_ids)}), so that answers would not "
                "end; correct eos_token_id in generation_config.json, or leave data.learn_end = true"
            )
            raise CheckError(msg)
        stops.add(str(encoder.tokenizer.convert_ids_to_tokens(end)))
        # Some templates close an answer before they end it.
        learned = _spell(encoder.tokenizer, tokens, skip_special_tokens=True)
        if not learned.endswith(answer):
            msg = (
                f"{sample.source}: {learned!r} is learned of the answer {answer!r}; give data.chat_template, since the "
                "model's changes its answers"
            )
            raise CheckError(msg)
    return stops


def find_runs(example: Example) -> list[IntArray]:
    """Give the stretches of tokens that are learned."""
    learned = np.flatnonzero(example.supervised)
    bounds = np.flatnonzero(np.diff(learned) > 1) + 1
    return [example.tokens[places] for places in np.split(learned, bounds)] if len(learned) else []


def _spell(tokenizer: Any, tokens: IntArray, **settings: bool) -> str:
    text: str = tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False, **settings)
    return text.strip()


def _name(tokenizer: Any, ids: tuple[int, ...]) -> str:
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return ", ".join(map(str, names)) or "none is known"
