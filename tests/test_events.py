"""What a run reports."""

from typing import get_args

import attrs
import pytest

from vlora import events
from vlora.events import Event, FeatureCounts, Skipped


def test_counts_are_since_an_earlier_time() -> None:
    """Images are counted since then; bytes are what is held now, in 10^9."""
    before = FeatureCounts(n_memory=1, n_disk=2, n_computed=3, memory_bytes=5 * 10**9, disk_bytes=10**9)
    now = FeatureCounts(n_memory=11, n_disk=2, n_computed=4, memory_bytes=10**9, disk_bytes=2 * 10**9)

    assert now.since(before) == {
        "features_from_memory": 10,
        "features_from_disk": 0,
        "features_computed": 1,
        "features_memory_gb": 1.0,
        "features_disk_gb": 2.0,
    }


def test_events_are_records_with_named_fields() -> None:
    """They can be compared and not be changed, and their fields are given by name."""
    for kind in get_args(Event):
        assert getattr(events, kind.__name__) is kind
        assert all(field.kw_only for field in attrs.fields(kind))
    skipped = Skipped(reason="row 3: no image")
    assert skipped == Skipped(reason="row 3: no image")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        skipped.reason = "other"  # type: ignore[misc]
