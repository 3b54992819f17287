"""The features of images that a run keeps: whether it keeps any, where, and how much room they have."""

import attrs

from .. import models
from ..build import Data
from ..data.pairing import find_preferences
from ..events import FeatureCounts
from ..facts import FeatureStorage
from ..memory.limits import device_memory
from ..output.paths import expand_home
from ..recipe.schema import Recipe
from ..system.cache import cache_folder

ROUNDED = "without features on disk a run that goes on with --resume equals one that was not stopped up to rounding"

LEAST_MEMORY_GB, MEMORY_SHARE = 1.0, 16
"""Without `features.memory_gb`: gigabytes for features, and which part of the device's memory may be more."""


@attrs.frozen(eq=False, kw_only=True)
class Features:
    """The features of images that a run keeps.

    Attributes:
        cache: Keeps them; None if they are not kept.
        encoder: Turns samples into examples; it does not look at images whose features are kept.
        storage: Where they are kept, or why they are not.
        has_shared_passes: Whether images go through the tower together: their last bits depend on it then.
    """

    cache: models.FeatureCache | None
    encoder: models.Encoder
    storage: FeatureStorage
    has_shared_passes: bool = False

    @property
    def counts(self) -> FeatureCounts | None:
        """Where features came from so far; None if none are kept."""
        return None if self.cache is None else self.cache.counts

    @property
    def is_divided(self) -> bool:
        """Whether each of several devices keeps those that it has computed, on a disk where others find them."""
        return self.cache is not None and self.cache.shards is not None and self.cache.shards.device is not None

    def flush(self) -> None:
        """Write to disk what is still buffered."""
        if self.cache is not None:
            self.cache.flush()

    def take_others(self) -> None:
        """Take what the other devices have written until now, besides what this one has computed."""
        if self.cache is not None:
            self.cache.take_others()

    def drain_warnings(self) -> list[str]:
        """Give what went wrong and was passed over since this was last asked."""
        notes = [] if self.cache is None else self.cache.drain_warnings()
        return [f"{note}; {ROUNDED}" for note in notes] if self.has_shared_passes else notes


def attach_feature_cache(
    recipe: Recipe, data: Data, backbone: models.MlxVlmBackbone, device: models.DeviceMark | None = None
) -> Features:
    """Give a model a cache for the features of images, if the recipe has one and nothing that makes them is trained.

    Args:
        recipe: The recipe.
        data: As `load_data` returns it.
        backbone: As `load_model` returns it; from now on it takes features from the cache.
        device: Which of several devices of a run this is.

    Returns:
        The cache, and an encoder that does not look at images whose features are in it; that of `data` is not changed.
    """
    section = recipe.features
    usual = max(LEAST_MEMORY_GB, device_memory() / 1e9 / MEMORY_SHARE)
    in_memory = usual if section.memory_gb is None else section.memory_gb
    reason = None if section.cache else "features.cache = false"
    reason = "rows of a stream come again after all others" if recipe.data.streaming else reason
    no_room = None if in_memory or section.disk_gb else "features.memory_gb and features.disk_gb are 0"
    reason = reason or no_room or backbone.why_features_change()
    if reason is not None:
        encoder = data.encoder.with_image_keys() if find_preferences(recipe) else data.encoder
        return Features(cache=None, encoder=encoder, storage=FeatureStorage(reason=reason))
    shards = root = None
    if section.disk_gb:
        root = expand_home(section.path, "features.path") if section.path else cache_folder() / "features"
        tower = models.features_fingerprint(backbone.module, backbone.feature_weights(), data.files.config)
        shards = models.ShardStore(root, tower, int(section.disk_gb * 1e9), device)
    cache = models.FeatureCache(int(in_memory * 1e9), shards)
    backbone.keep_features(cache)
    encoder = data.encoder.with_image_keys(models.ProcessedCache(cache, backbone.has_features))
    has_shared_passes = data.files.family.forward.has_grid_tower
    storage = FeatureStorage(
        memory_gb=in_memory,
        disk_gb=section.disk_gb,
        folder=root,
        # A run that goes on has lost what only memory has kept; its images share the tower's batch with others.
        resumes_rounded=has_shared_passes and not section.disk_gb,
    )
    return Features(cache=cache, encoder=encoder, storage=storage, has_shared_passes=has_shared_passes)
