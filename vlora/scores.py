"""What metrics say of a round of answers."""

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Score:
    """The value of a metric over all rows that it applies to.

    Attributes:
        mean: The mean of the rows' values; for BLEU, chrF, CER and WER that of the rows taken as one text.
        low: The lower end of its interval (bootstrap, 95 %); None where a function of yours gave one number for all.
        high: The upper end.
        n: How many rows it applies to.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@attrs.frozen(kw_only=True)
class Scored:
    """A round of answers is over, and the recipe's metrics were computed.

    Attributes:
        when: "before", "during" or "after" training.
        step: Steps done.
        scores: Names of metrics to their values; a metric that applies to no row is left out.
        n_rows: Rows that were answered.
    """

    when: str
    step: int
    scores: Mapping[str, Score]
    n_rows: int
