"""Keys that contradict one another where a recipe learns from preferences, and where it does not. Pure."""

import difflib
from collections.abc import Iterator

from .converter import plain
from .meanings import explain_value
from .preference import LOSSES, REFERENCED, PreferenceSection
from .schema import Recipe

READ_BY = {
    "label_smoothing": ("sigmoid", "robust"),
    "gamma": ("simpo",),
    "dpop": ("sigmoid",),
    "desirable_weight": ("kto", "apo_zero_unpaired"),
    "undesirable_weight": ("kto", "apo_zero_unpaired"),
}
"""Keys that some losses read only."""

OF_COMPARED = {
    "nll_weight": ("cpo", "orpo"),
    "precompute": REFERENCED,
    "dpop": REFERENCED,
    "label_smoothing": REFERENCED,
}
"""Keys that some objectives read only."""


def find_preference_contradictions(recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for every contradiction."""
    objective, section = recipe.train.objective, recipe.preference
    if objective not in LOSSES:
        default = PreferenceSection()
        for key in (
            field.name for field in PreferenceSection.__attrs_attrs__ if _differs(section, default, field.name)
        ):
            yield (
                f"preference.{key}: found {plain(getattr(section, key))!r} together with train.objective = "
                f"{objective!r}, which compares no answers; set train.objective to one of "
                f"{', '.join(map(repr, LOSSES))}"
            )
        return
    yield from _loss_contradictions(objective, section)
    yield from _nothing_learned(objective, section)
    yield from _run_contradictions(recipe)


def _differs(section: PreferenceSection, default: PreferenceSection, key: str) -> bool:
    return bool(getattr(section, key) != getattr(default, key))


def _loss_contradictions(objective: str, section: PreferenceSection) -> Iterator[str]:
    known = LOSSES[objective]
    unknown = [name for name in section.loss if name not in known]
    for name in unknown:
        # Another objective may have it, or have it under another name.
        told = _explain_loss(objective, name)
        if told is None and (near := difflib.get_close_matches(name, known, n=1)):
            told = f"did you mean {near[0]!r}?"
        yield (
            f"preference.loss: found {name!r}, which train.objective = {objective!r} has not; it has "
            f"{', '.join(map(repr, known))}{'' if told is None else f'; {told}'}"
        )
    if len(set(section.loss)) < len(section.loss):
        yield f"preference.loss: found {plain(section.loss)!r}; name each loss once, and give it a weight"
    n_losses = len(section.loss) or 1
    if section.weights and len(section.weights) != n_losses:
        yield (
            f"preference.weights: found {len(section.weights)} for {n_losses} losses; give one for each of "
            "preference.loss, in its order"
        )
    losses, default = section.loss or known[:1], PreferenceSection()
    for key, readers in READ_BY.items():
        if not unknown and _differs(section, default, key) and not set(losses) & set(readers):
            yield (
                f"preference.{key}: found {getattr(section, key)!r}, which {', '.join(map(repr, losses))} does not "
                f"read; it is for {' and '.join(map(repr, readers))}"
            )
    for key, objectives in OF_COMPARED.items():
        if _differs(section, default, key) and objective not in objectives:
            yield (
                f"preference.{key}: found {getattr(section, key)!r}, which train.objective = {objective!r} does not "
                f"read; it is for {' and '.join(map(repr, objectives))}"
            )


def _explain_loss(objective: str, name: str) -> str | None:
    """Say where a loss belongs that the objective has not."""
    if name == objective:
        return f"it is the objective itself, whose loss is {LOSSES[name][0]!r} where preference.loss is left out"
    told = explain_value("train.objective", name)
    if told is not None:
        return told
    others = [repr(other) for other, losses in LOSSES.items() if name in (other, *losses)]
    return f"it is for train.objective = {' or '.join(others)}" if others else None


def _nothing_learned(objective: str, section: PreferenceSection) -> Iterator[str]:
    own = bool(section.nll_weight) and objective in OF_COMPARED["nll_weight"]
    if section.weights and not any(section.weights) and not own:
        yield (
            f"preference.weights: found {plain(section.weights)!r}, with which nothing is learned; give at least one "
            "loss a weight above 0"
        )
    if not section.desirable_weight and not section.undesirable_weight:
        yield (
            "preference.desirable_weight and preference.undesirable_weight: found 0 for both, with which nothing is "
            "learned; set one above 0"
        )


def _run_contradictions(recipe: Recipe) -> Iterator[str]:
    objective, train, losses = recipe.train.objective, recipe.train, recipe.preference.loss
    if recipe.lora.dropout and objective in REFERENCED:
        yield (
            f"lora.dropout: found {recipe.lora.dropout} together with train.objective = {objective!r}; what is "
            "compared with a reference has no dropout, set it to 0"
        )
    if recipe.data.custom_prompt_format is not None:
        yield (
            f"data.custom_prompt_format: it has no place for a second answer, and train.objective = {objective!r} "
            "needs one; name the rows' columns in data.columns"
        )
    if objective != "kto" or "kto" not in (losses or ("kto",)):
        return
    if train.batch_size == 1 and train.batching != "packed":
        yield (
            "train.batch_size: found 1 together with train.objective = 'kto', which estimates a divergence from the "
            "other rows of a microbatch; give 2 or more"
        )
    if recipe.preference.precompute or recipe.model.full_finetune or recipe.model.train_vision:
        yield (
            "train.objective: found 'kto', whose mismatched answers are another with every batch, so that their "
            "log-probabilities cannot be kept; train adapters of the language model without preference.precompute, or "
            "use preference.loss = ['apo_zero_unpaired']"
        )
