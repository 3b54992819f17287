"""A trained model opened to be asked: what a run has trained, or a model of any folder or hub id."""

import attrs

from .. import models
from ..build import find_model, load_model
from ..memory.limits import naming_shortage
from ..models.generation.talk import Talk
from ..recipe.schema import Recipe
from .origin import find_adapter_recipe, find_model_recipe, is_adapter


@attrs.frozen(eq=False, kw_only=True)
class Asked:
    """A model that is ready to be asked.

    Attributes:
        talk: The conversation.
        recipe: How it was trained.
        note: That an adapter was trained on another base; None if it was not.
    """

    talk: Talk
    recipe: Recipe
    note: str | None


def open_talk(name: str, options: models.AnswerOptions, *, base: str | None = None, system: str | None = None) -> Asked:
    """Load a model, or an adapter and its base, with the chat template and the system prompt that it was trained with.

    Args:
        name: An adapter's file or folder, a model's folder, or a hub id.
        options: How questions are answered.
        base: Another base than an adapter's own.
        system: Another system prompt than that of training; "" for none.

    Raises:
        VloraError: There is no such model, or it cannot be loaded.
    """
    recipe = find_adapter_recipe(name, base) if is_adapter(name) else find_model_recipe(name)
    # Nothing is written.
    recipe = attrs.evolve(recipe, output=attrs.evolve(recipe.output, path="unwritten", keep_best=None))
    files = find_model(recipe)
    processor = models.load_processor(files, recipe.model)
    encoder = models.make_encoder(processor, files.config, files.family, recipe.data)
    with naming_shortage("loading the model"):
        backbone, _ = load_model(recipe, files) if is_adapter(name) else models.load_backbone(files, recipe.model)
    encoder.prepare(())
    talk = Talk(
        backbone=backbone,
        encoder=encoder,
        options=options,
        system=recipe.data.system if system is None else system or None,
    )
    return Asked(talk=talk, recipe=recipe, note=backbone.base_note)
