"""From a recipe to the things a run is made of: rows, encoder, model. Reads disk; trains nothing."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import mlx.optimizers as optim

from . import models
from .adapters.attached import lora_layers
from .arguments import expect_type
from .data.format.samples import Preferences
from .data.opening import wrap_rows
from .data.pairing import find_preferences
from .data.recipe_rows import open_rows, refuse_stream
from .data.rows import RowDataset
from .data.values import Row
from .errors import RecipeError
from .output.archive import refuse_model_folder, starts_from
from .output.base_identity import KEY as BASE
from .output.paths import OutputPaths, output_paths
from .recipe.schema import ModelSection, Recipe
from .train.objectives.named import find_objective
from .train.parameter_rates import lr_multipliers, undecayed
from .train.ranks import Ranks
from .train.reference import Reference
from .train.rules import FIRST, Rules
from .train.step import TrainStep, make_train_step
from .types import Example, Sample, TrainState

BUILTIN_MODEL = "builtin:tiny-qwen3-vl"
BUILTIN_FOLDER = "tiny-qwen3-vl"
"""Beside the output of the run that has built it."""


@attrs.frozen(eq=False, kw_only=True)
class Data:
    """The rows of a recipe and what encodes them; no weights.

    Attributes:
        files: The model's folder and configuration.
        encoder: Turns samples into examples.
        train: Rows to train on; of a stream the first ones.
        valid: Rows to validate on, if the recipe names any.
        preferences: What rows have beside one answer; None if the recipe compares no answers.
    """

    files: models.ModelFiles
    encoder: models.Encoder
    train: RowDataset
    valid: RowDataset | None
    preferences: Preferences | None = None

    def encode(self, sample: Sample) -> tuple[Example, ...]:
        """Encode a row: its answer, or both of a pair.

        Raises:
            SampleError: The row cannot be learned from.
        """
        if self.preferences is None:
            return (self.encoder(sample),)
        return models.encode_answers(self.encoder, sample)


def find_model(recipe: Recipe) -> models.ModelFiles:
    """Find the recipe's model; the built-in one is built beside the output first.

    Raises:
        ModelError: There is no such model, or it is not trained.
        RecipeError: The output would overwrite the model it starts from.
    """
    section = recipe.model
    paths = output_paths(recipe)
    refuse_model_folder(paths)
    if section.path == BUILTIN_MODEL:
        folder = paths.folder.parent / BUILTIN_FOLDER
        section = attrs.evolve(section, path=str(models.build_tiny_qwen3_vl(folder, seed=recipe.train.seed)))
    files = models.find_model(section)
    if _may_add_tokens(section):
        files = attrs.evolve(files, added=models.name_tokens(section))
    if section.full_finetune and paths.weights.resolve() == files.path.resolve():
        msg = f"output.path: {recipe.output.path!r} is the model that training starts from; give another folder"
        raise RecipeError(msg)
    if files.added and paths.is_adapter and paths.base.resolve() == files.path.resolve():
        msg = (
            f"output.path: the model with its new tokens would be written to {paths.base}, from which training starts; "
            "give another path"
        )
        raise RecipeError(msg)
    _refuse_to_overwrite(recipe, paths, files.path.resolve())
    return files


def _may_add_tokens(section: ModelSection) -> bool:
    """Whether the model gets tokens: those that the recipe names, or its adapter brings."""
    return bool(section.add_tokens) or section.adapter_path is not None


def _refuse_to_overwrite(recipe: Recipe, paths: OutputPaths, base: Path) -> None:
    every, best = recipe.train.steps_per_save, paths.best.resolve()
    if recipe.output.keep_best is not None and best in {base, *starts_from(recipe)}:
        msg = (
            f"output.path: {str(best)!r}, from which training starts, would be overwritten by the best state "
            "(output.keep_best); give another folder"
        )
        raise RecipeError(msg)
    if recipe.model.full_finetune and attrs.evolve(paths, weights=paths.weights.resolve()).is_numbered(base):
        step = int(base.name[-7:])
        if step % every == 0:
            msg = (
                f"output.path: {str(base)!r}, the model that training starts from, would be overwritten by the "
                f"checkpoint of step {step}; give another folder"
            )
            raise RecipeError(msg)


def load_data(recipe: Recipe, rows: Iterable[Row] | None = None, valid_rows: Iterable[Row] | None = None) -> Data:
    """Open the rows of a recipe by their numbers, and the processor of its model; arguments and errors of `load_rows`.

    A recipe that streams its rows is refused: they have no numbers.
    """
    expect_type(recipe, Recipe, "load_data", "give a Recipe, as parse_recipe makes it of a text")
    if rows is None:
        refuse_stream(recipe.data)
    return load_rows(recipe, rows, valid_rows)


def load_rows(recipe: Recipe, rows: Iterable[Row] | None = None, valid_rows: Iterable[Row] | None = None) -> Data:
    """Open the rows of a recipe, of a stream the first ones with the stream, and the processor of its model.

    Args:
        recipe: The recipe.
        rows: Dicts to train on in place of the rows that the recipe names; images as paths, bytes or PIL images.
        valid_rows: Dicts to validate on. Given `rows` and none of these, `data.valid_fraction` holds out a share.

    Raises:
        VloraError: A part of the recipe names something that is not there, or there is no row.
    """
    # The rows first: a slip in their path should not wait for a model to be downloaded.
    seed, preferences = recipe.train.seed, find_preferences(recipe)
    if rows is None:
        train, valid = open_rows(recipe.data, seed=seed, preferences=preferences)
    else:
        train, valid = wrap_rows(recipe.data, rows, valid_rows, seed=seed, preferences=preferences)
    files = find_model(recipe)
    if recipe.train.batching == "packed" and not files.family.forward.packs:
        msg = (
            f"train.batching: found 'packed', and nothing shows that packed rows of a {files.model_type} model do not "
            "see one another (vlora/models/families.md, column packs); use 'grouped'"
        )
        raise RecipeError(msg)
    processor = models.load_processor(files, recipe.model)
    # Only answers are compared, whatever is learned of other rows.
    section = attrs.evolve(recipe.data, train_on_completions=True) if preferences else recipe.data
    encoder = models.make_encoder(processor, files.config, files.family, section)
    return Data(files=files, encoder=encoder, train=train, valid=valid, preferences=preferences)


def follow_rules(data: Data, rules: Rules) -> Data:
    """Let rows be encoded by the rules that a run began with."""
    if rules.ends > FIRST:
        return data
    section = attrs.evolve(data.encoder.data, learn_end=False)
    return attrs.evolve(data, encoder=attrs.evolve(data.encoder, data=section))


def load_model(
    recipe: Recipe, files: models.ModelFiles, *, is_abstract: bool = False, is_lazy: bool = False
) -> tuple[models.MlxVlmBackbone, dict[str, Any]]:
    """Load the model and make trainable what the recipe trains.

    Args:
        recipe: The recipe.
        files: Its model, as `find_model` found it.
        is_abstract: Give the model its shapes only; no weights are read.
        is_lazy: Leave weights to be read when they are first used, but for an adapter's start.

    Returns:
        The backbone, and the adapter's configuration (after full fine-tuning only its type). `backbone.base_note` is
        a line that names the base of `model.adapter_path`, if it was trained on other weights.

    Raises:
        VloraError: The weights, the targets or the adapter do not fit.
    """
    expect_type(files, models.ModelFiles, "load_model, files", "give data.files, as load_data returns them")
    section = recipe.model
    load = models.abstract_backbone if is_abstract else functools.partial(models.load_backbone, is_lazy=is_lazy)
    backbone, quantized = load(files, section)
    reread = {"on_wrapped": models.unread_weights(files, section)} if is_lazy else {}
    # With added tokens both are trained; full fine-tuning trains them anyway.
    lora = attrs.evolve(recipe.lora, train_embeddings=True, train_head=True) if files.added else recipe.lora
    new = _grow_tables(backbone, files, section, is_abstract=is_abstract) if _may_add_tokens(section) else None
    if section.train_vision:
        models.unfreeze_vision(backbone)
    if section.full_finetune:
        models.unfreeze_language(backbone)
        config: dict[str, Any] = {"fine_tune_type": "full"}
    elif section.adapter_path is not None:
        config = models.load_adapter(
            backbone, section.adapter_path, lora, quantized, files=files, is_strict=section.strict_base, **reread
        )
        if new is not None:
            models.grow_tables(backbone, new, is_abstract=is_abstract)
    else:
        # Where weights have no principal part, an adapter is shaped as if they had.
        shaped = attrs.evolve(lora, init="default") if is_abstract else lora
        config = models.add_lora(backbone, shaped, seed=recipe.train.seed, quantized=quantized, **reread)
        if shaped.init != lora.init:
            for _, layer in lora_layers(backbone.module):
                layer.set_initial_factors(layer.lora_a, layer.lora_b)
    if files.added:
        # Now, and not when everything has been trained and cannot be written.
        models.grow_config(files.config, backbone, files.path)
    added = {"added_tokens": list(files.added)} if files.added else {}
    version = {} if files.commit is None else {"base_revision": files.commit}
    named = {"base_model": section.path, "train_vision": section.train_vision}
    return backbone, {**config, **added, **version, **named, **({BASE: backbone.base.dump()} if backbone.base else {})}


def _grow_tables(
    backbone: models.MlxVlmBackbone, files: models.ModelFiles, section: ModelSection, *, is_abstract: bool
) -> models.Numbered:
    """Give the model rows for the tokens that it gets, and give those that it gets once its adapter is loaded."""
    goes_on, names = section.adapter_path is not None, models.name_saved(section)
    numbered = models.number_added(files, section)
    # An adapter's own tokens have to be there before it is loaded; those that are new to it come after.
    saved, new = numbered.of(names), numbered.of(numbered.ids.keys() - set(names))
    models.grow_tables(backbone, saved if goes_on else new, has_saved=goes_on, is_abstract=is_abstract)
    return new


def make_recipe_step(
    recipe: Recipe,
    backbone: models.MlxVlmBackbone,
    optimizer: optim.Optimizer,
    state: TrainState,
    *,
    reference: Reference | None = None,
    rules: Rules | None = None,
    ranks: Ranks | None = None,
    compiled: bool = True,
) -> TrainStep:
    """Make the training step as the recipe has it.

    Args:
        recipe: The recipe.
        backbone: As `load_model` returns it.
        optimizer: As `make_optimizer` makes it.
        state: Names the trained parameters; not kept.
        reference: As for `make_train_step`.
        rules: As for `make_train_step`.
        ranks: As for `make_train_step`.
        compiled: As for `make_train_step`.

    Raises:
        VloraError: A rate for what is not trained, or recomputation of layers that there are not.
    """
    train = recipe.train
    return make_train_step(
        backbone,
        optimizer,
        loss=find_objective(train.objective, recipe.preference),
        reference=reference,
        max_grad_norm=recipe.optim.grad_clip,
        lr_multipliers=lr_multipliers(state.params, backbone.layout, recipe.optim, rules),
        undecayed=undecayed(state.params, recipe.optim, rules),
        grad_checkpoint=train.grad_checkpoint,
        checkpoint_every=train.checkpoint_every,
        checkpoint_part=train.checkpoint_part,
        seed=train.seed,
        rules=rules,
        ranks=ranks,
        compiled=compiled,
    )
