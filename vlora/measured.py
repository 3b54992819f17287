"""What steps measure, as numbers; of what an objective measures beside the loss, sums and their means. Pure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .types import Cut, RowMark

Measured = Mapping[str, tuple[float, float]]
"""By name: (sum, what it is divided by), so that steps weigh as much as they have terms."""

PASSED = "steps_passed_over"
"""In a report: steps without a row that could be learned from."""

MARGINS, CHOSEN, REJECTED = "rewards/margins", "rewards/chosen", "rewards/rejected"
ACCURACIES = "rewards/accuracies"


def add_measured(total: Measured, more: Measured) -> dict[str, tuple[float, float]]:
    """Add what was measured of further rows."""
    names = [*total, *(name for name in more if name not in total)]
    zero = (0.0, 0.0)
    return {
        name: (total.get(name, zero)[0] + more.get(name, zero)[0], total.get(name, zero)[1] + more.get(name, zero)[1])
        for name in names
    }


def find_means(measured: Measured) -> dict[str, float]:
    """Give the means, those left out of which there are no terms.

    Where answers have no pairs, the margin is that between the means of wanted and unwanted ones.
    """
    means = {name: total / count for name, (total, count) in measured.items() if count}
    if MARGINS not in measured and CHOSEN in means and REJECTED in means:
        means[MARGINS] = means[CHOSEN] - means[REJECTED]
    return means


@attrs.frozen(kw_only=True)
class StepReport:
    """One step; losses are means over their terms, of fine-tuning nats per supervised token.

    Attributes:
        step: Counts from 1.
        loss: Of this step.
        running_loss: Over all steps of this run so far, each term weighing the same.
        learning_rate: Of this step.
        grad_norm: Before clipping.
        tokens: Tokens of this step, padding left out.
        places: Places at which the language model ran in this step, padding included.
        supervised_tokens: Those that were learned.
        n_terms: Terms of the loss: of fine-tuning the supervised tokens, of an objective over pairs the pairs.
        step_s: Seconds from the end of the step before to the end of this one.
        wait_s: Seconds that this step waited for its rows.
        n_traces: Shapes traced so far.
        trace_s: Seconds spent in steps that traced a new shape so far, compiling included.
        n_steps: Steps of the whole run as far as it is known now; None where it is not known.
        cuts: What was cut of its rows by data.max_seq_length.
        rows: What its rows are known by.
        measured: What an objective measures beside the loss; `find_means` gives the means.
    """

    step: int
    loss: float
    running_loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    places: int
    supervised_tokens: int
    n_terms: float
    step_s: float
    wait_s: float
    n_traces: int
    trace_s: float
    n_steps: int | None = None
    cuts: "tuple[Cut, ...]" = ()
    rows: "tuple[RowMark, ...]" = ()
    measured: Measured = attrs.field(factory=dict)
