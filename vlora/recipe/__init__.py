"""Recipes: what their sections and keys are, how a file is read, what contradicts."""

from .parse import dump_recipe, parse_recipe
from .resources import FeaturesSection, MemorySection
from .schema import (
    DataSection,
    EvalSection,
    LoraSection,
    ModelSection,
    OptimSection,
    OutputSection,
    Recipe,
    TrainSection,
)

__all__ = [
    "DataSection",
    "EvalSection",
    "FeaturesSection",
    "LoraSection",
    "MemorySection",
    "ModelSection",
    "OptimSection",
    "OutputSection",
    "Recipe",
    "TrainSection",
    "dump_recipe",
    "parse_recipe",
]
