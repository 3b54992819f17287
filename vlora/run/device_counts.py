"""What each device of a run has done, as far as devices have told one another: rows learned, images encoded."""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..events import FeatureCounts
from ..facts import DeviceUse


@attrs.define(eq=False)
class DeviceCounts:
    """Rows and features of every device since the run began, or went on; of one device nothing is counted.

    Attributes:
        uses: What each device did, by its rank; empty for one device.
        features: Where the features of images came from on each; empty where none are kept.
    """

    uses: tuple[DeviceUse, ...] = ()
    features: Sequence[FeatureCounts] = ()

    def tell(self, found: Iterable[tuple[int, FeatureCounts | None]]) -> None:
        """Count what devices have told.

        Args:
            found: Of each device, by its rank: rows that it has learned since it told last, and its features so far.
        """
        told = list(found)
        before = [use.n_rows for use in self.uses] or [0] * len(told)
        self.features = [features for _, features in told if features is not None]
        computed = [None if features is None else features.n_computed for _, features in told]
        self.uses = tuple(
            DeviceUse(n_rows=known + new, n_computed=n_computed)
            for known, (new, _), n_computed in zip(before, told, computed, strict=True)
        )

    def measure(self) -> Mapping[str, float]:
        """Give what a line of the metrics has of it: rows, and images that a tower ran for, on each device."""
        return {
            f"device{rank}/{what}": value
            for rank, use in enumerate(self.uses)
            for what, value in (("rows", use.n_rows), ("features_computed", use.n_computed))
            if value is not None
        }

    def join(self, own: FeatureCounts | None) -> FeatureCounts | None:
        """Add up the features of all devices.

        Args:
            own: This device's, which are all where there is no other.
        """
        if own is None or not self.features:
            return own
        # All devices write to one folder, which each knows by what it has found and written itself.
        n_disk = max(counts.disk_bytes for counts in self.features)
        summed = ("n_memory", "n_disk", "n_computed", "memory_bytes")
        totals = {name: sum(getattr(counts, name) for counts in self.features) for name in summed}
        return FeatureCounts(**totals, disk_bytes=n_disk)
