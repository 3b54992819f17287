"""Rules of training that have changed: a run that goes on keeps those that it began with.

A field for each rule, whose default is the newest version; the first one is 1. What reads a rule keeps all versions of
it, so that a training state of any age goes on to the bit as it began.
"""

import json

import attrs

from ..errors import CheckpointError

FIRST = 1
"""The version that a rule has in a training state that does not speak of it."""


@attrs.frozen(kw_only=True)
class Rules:
    """Which version of each rule a run follows.

    Attributes:
        dropout_keys: How the random keys of dropout are made. 1: of the seed's lowest 20 bits, so that seeds as far
            apart share theirs. 2: of all of the seed.
        warmup: 1: the first step already learns, and step `warmup_steps` is at the peak. 2: as in transformers, the
            first step has rate 0, and the step after the warmup is at the peak.
        lora_plus: 1: DoRA's magnitudes have the rate of A. 2: as in PEFT's LoRA+, that of B.
        decay: 1: all parameters decay. 2: as in transformers' Trainer, norms, biases and other parameters of one
            dimension do not, unless `optim.decay_all` says so.
        ends: 1: answers end as the chat template writes them. 2: where it does not end them, they get an end, unless
            `data.learn_end` says otherwise.
    """

    dropout_keys: int = 2
    warmup: int = 2
    lora_plus: int = 2
    decay: int = 2
    ends: int = 2

    def dumps(self) -> str:
        """Write them as a note of a training state."""
        return json.dumps(attrs.asdict(self))


def parse_rules(note: str | None, where: object) -> Rules:
    """Read the rules that a training state follows.

    Args:
        note: As `Rules.dumps` made it; None if the state has none, as older ones.
        where: The training state, for the error.

    Raises:
        CheckpointError: A rule is newer than this vlora.
    """
    found = {} if note is None else json.loads(note)
    newest = attrs.asdict(Rules())
    for name, version in found.items():
        if not isinstance(version, int) or not FIRST <= version <= newest.get(name, 0):
            msg = f"{where}: follows version {version} of the rule {name!r}, which this vlora does not know; update it"
            raise CheckpointError(msg)
    return Rules(**{name: found.get(name, FIRST) for name in newest})
