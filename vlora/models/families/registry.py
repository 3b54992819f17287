"""The families by mlx-vlm's name for their architecture.

Every module of this folder with a `FAMILIES` of its own adds them. A family that is not listed is run as `Family()`
describes: rows embedded one by one, causal attention, no corrections; before it is trained,
`vlora.models.backbone.startup_checks` checks on real rows that this is right for it.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import mlx.core as mx

from ..forward.metal_kernels import without_metal_kernels
from ..forward.overrides import chain
from .family import Family, Forward


def _families() -> Iterator[tuple[str, Family]]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != Path(__file__).stem:
            lineage = importlib.import_module(f".{module.name}", __package__)
            yield from getattr(lineage, "FAMILIES", {}).items()


FAMILIES: Mapping[str, Family] = dict(_families())

UNLISTED = Family(forward=Forward(rereads="what its layers keep of earlier tokens is not known"))


def describe_family(model_type: str) -> Family:
    """Look a family up; an unlisted one is run generically, after the probes.

    On a Mac all are embedded and trained without mlx-vlm's Metal kernels.
    """
    family = FAMILIES.get(model_type, UNLISTED)
    if not mx.metal.is_available():
        return family
    forward = attrs.evolve(
        family.forward,
        embed_overrides=chain(family.forward.embed_overrides, without_metal_kernels),
        train_overrides=chain(family.forward.train_overrides, without_metal_kernels),
    )
    return attrs.evolve(family, forward=forward)
