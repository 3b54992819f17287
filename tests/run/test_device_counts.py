"""What each device of a run has done: rows since it began, features as they were told last."""

import pytest

from vlora.events import FeatureCounts
from vlora.facts import DeviceUse
from vlora.run.device_counts import DeviceCounts


def count(computed: int, memory: int = 0) -> FeatureCounts:
    return FeatureCounts(n_computed=computed, n_memory=memory, memory_bytes=10 * computed, disk_bytes=7 * computed)


def test_rows_add_up_and_features_are_those_told_last() -> None:
    counts = DeviceCounts()
    counts.tell([(4, count(4)), (3, count(3))])
    counts.tell([(4, count(4, 4)), (4, count(5, 2))])

    assert counts.uses == (DeviceUse(n_rows=8, n_computed=4), DeviceUse(n_rows=7, n_computed=5))
    assert counts.measure() == {
        "device0/rows": 8,
        "device0/features_computed": 4,
        "device1/rows": 7,
        "device1/features_computed": 5,
    }
    expected = FeatureCounts(n_computed=9, n_memory=6, memory_bytes=90, disk_bytes=35)
    assert counts.join(count(4, 4)) == expected


@pytest.mark.parametrize("own", [None, count(3)])
def test_one_device_is_all_there_is(own: FeatureCounts | None) -> None:
    counts = DeviceCounts()

    assert (counts.uses, counts.measure(), counts.join(own)) == ((), {}, own)


def test_devices_that_keep_no_features() -> None:
    counts = DeviceCounts()
    counts.tell([(2, None), (1, None)])

    assert counts.measure() == {"device0/rows": 2, "device1/rows": 1}
    assert counts.join(None) is None
