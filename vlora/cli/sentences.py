"""Sentences about a run and its rows, as printed before the first step and by `inspect`."""

from ..events import Best, StoppedEarly, Untrained
from ..facts import Columns, DeviceUse, FeatureStorage, HeadUse, SourceShare, SourceUse, TemplateUse, UnnamedImages
from ..system.nouns import with_noun

SHOWN = 40
"""Most unused columns that a line names."""


def describe_columns(columns: Columns) -> str:
    """Describe how the columns of the rows read so far are used."""
    parts = ["none were read so far"]
    if columns.used or columns.unused:
        used = ", ".join(column if column == how else f"{column} ({how})" for column, how in columns.used.items())
        rest = f" and {len(columns.unused) - SHOWN} more" if len(columns.unused) > SHOWN else ""
        parts = [used or "none", f"not used: {', '.join(columns.unused[:SHOWN]) or 'none'}{rest}"]
    if columns.missing:
        parts.append(f"of data.columns in no row so far: {', '.join(columns.missing)}")
    if columns.unnamed is not None:
        parts.append(_describe_unnamed(columns.unnamed))
    return "; ".join(parts)


def _describe_unnamed(images: UnnamedImages) -> str:
    if images.n_unnamed is None:
        found = (
            f"the folder has {with_noun(images.n_images, 'image')} and its metadata {with_noun(images.n_rows, 'row')}"
        )
        return f"{found}, so that some images may be in no row"
    return f"images that no row of the metadata names: {images.n_unnamed:,}, such as {images.first!r}"


def describe_share(share: SourceShare) -> str:
    """Describe a source's part in an epoch of a mixture, or of one without epochs."""
    if share.wanted is None or share.real is None:
        return f"{share.name}: a stream; its rows take turns with those of the others, each once an epoch of all"
    if share.n_rows is None or share.n_drawn is None:
        return f"{share.name}: a stream; {share.real:.1%} of the rows"
    wanted = "" if f"{share.wanted:.1%}" == f"{share.real:.1%}" else f" (wanted {share.wanted:.1%})"
    times = share.n_drawn / share.n_rows
    drawn = "each once" if share.n_drawn == share.n_rows else f"{share.n_drawn:,} drawn, {times:.3g} times all of them"
    return f"{share.name}: {with_noun(share.n_rows, 'row')}, {drawn}; {share.real:.1%} of the rows of an epoch{wanted}"


def describe_use(use: SourceUse) -> str:
    """Describe what was learned of a source."""
    epochs = "its first epoch not over" if use.epochs is None else f"{use.epochs:.2f} epochs"
    return f"{use.name}: {with_noun(use.n_rows, 'row')}, {epochs}, {with_noun(use.n_tokens, 'token')}"


def describe_device(use: DeviceUse) -> str:
    """Describe what one of several devices has done."""
    computed = "" if use.n_computed is None else f", features of images computed: {use.n_computed:,}"
    return f"rows learned: {use.n_rows:,}{computed}"


def describe_template(template: TemplateUse) -> str:
    """Describe the chat template that writes the rows, and how answers end."""
    if template.origin == "none":
        return "none: a task on one image, and its answer"
    instead = ", in place of the model's own" if template.replaces_own else ""
    origins = {
        "model": "the model's own",
        "vlora": "of vlora for this family",
        "recipe": f"{template.given!r}{instead}",
    }
    ending = f"answers end with {template.ending!r}" if template.ending else "answers end as it writes them"
    whose = " (data.learn_end)" if template.adds_ending or not template.ending else ""
    unread = "; data.assistant_id is not needed" if template.ignores_assistant_id else ""
    return f"{origins[template.origin]}; {ending}{whose}{unread}"


def describe_storage(storage: FeatureStorage) -> str:
    """Describe where features of images are kept, or why they are not."""
    if storage.reason is not None:
        return f"not kept: {storage.reason}"
    from ..run.feature_cache import ROUNDED

    places = {"memory": storage.memory_gb, str(storage.folder): storage.disk_gb}
    kept = " and ".join(f"up to {gigabytes:.3g} GB in {place}" for place, gigabytes in places.items() if gigabytes)
    return f"kept, {kept}" + (f"; {ROUNDED}" if storage.resumes_rounded else "")


def describe_head(head: HeadUse) -> str | None:
    """Describe how a head runs and why; None if it runs in chunks at the supervised tokens only."""
    if head.extent == "all":
        return "at all tokens, supervised or not: no module gives the model's own logits at selected ones"
    if head.extent == "supervised":
        return (
            f"at all supervised tokens of a batch at once, not in chunks: what {head.module} takes is not what one "
            "module of layers gives"
        )
    return None


def describe_best(best: Best) -> str:
    """Return the name and the value of what a state is the best by."""
    return f"{best.judged_by.replace('_', ' ')} {best.value:.4f}"


def describe_choice(best: Best, last: int) -> str:
    """Describe the best state of a run, and where it is kept.

    Args:
        best: That state.
        last: The run's last step.
    """
    where = ", the last one" if best.step == last else ""
    if best.path is not None:
        where += f", kept in {best.path}"
    elif not where:
        where = "; output.keep_best would have kept it"
    than = "" if best.untrained is None else f"; the untrained model has {best.untrained:.4f}, which is no worse"
    return f"best: {describe_best(best)} after step {best.step}{where}{than}"


def describe_early(event: StoppedEarly) -> str:
    """Describe why a run stopped before its last step."""
    than = "" if event.reference is None else f" than {event.judged_by.replace('_', ' ')} {event.reference:.4f}"
    than += f" by more than {event.min_delta:g}" if than and event.min_delta else ""
    of_loss = event.judged_by == "valid_loss"
    one, more = (
        ("validation was", "validations were") if of_loss else ("round of answers was", "rounds of answers were")
    )
    times = f"the last {one}" if event.n_stale == 1 else f"the last {event.n_stale} {more}"
    return (
        f"stopped early after step {event.step} of {event.n_steps}: {times} not better{than}; --resume with a larger "
        "train.early_stopping_patience goes on"
    )


def describe_untrained(event: Untrained) -> str:
    """Describe the loss before the first step, compared with that of guessing."""
    rows = "held-out rows" if event.is_held_out else "the rows of the first step"
    guessing = f"guessing evenly among {with_noun(event.n_tokens, 'token')} has {event.guessing:.4f}"
    return f"untrained: loss {event.loss:.4f} on {rows}; {guessing}"


def explain_guessing(event: Untrained) -> str:
    """Explain a loss that is not clearly below that of guessing."""
    if event.is_random:
        return "the untrained model is no better than guessing, as the built-in model has to be: its weights are random"
    return (
        "the untrained model is not clearly better than guessing: its weights are random (a model that was built for a "
        "try), or the chat template, the weights or the positions are not those that it was trained with; `python -m "
        "vlora inspect` shows the rows as it reads them"
    )
