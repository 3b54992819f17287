"""What metrics say of a round of answers is an event like others."""

from typing import get_args

from vlora import events
from vlora.scores import Score, Scored


def test_scores_are_an_event() -> None:
    """A consumer of events meets them under the events' own names."""
    score = Score(mean=0.5, low=0.25, high=0.75, n=4)
    event = Scored(when="during", step=3, scores={"exact_match": score}, n_rows=4)

    assert Scored in get_args(events.Event)
    assert events.Scored is Scored
    assert event.scores["exact_match"].low == 0.25
