"""The page that `inspect --html` writes: counts of all rows, what is worth knowing of them, and chosen rows in full."""

from collections.abc import Sequence

import attrs

from ...build import Data
from ...recipe.schema import Recipe
from ...system.nouns import with_noun
from ..census import Census
from ..histogram import draw_histogram
from ..page import MOST_CHARACTERS, render
from .choice import Chosen
from .look import fold, look_at

MOST_PICTURE_BYTES = 2_400_000
"""Of all pictures of a page, before base64 makes a third more of them."""
LARGEST_SHARE = 120_000
"""Bytes that the pictures of one row may take."""
HEAD, TAIL = 1_000, 700
"""Characters of a row's text that are open: the answer, at its end, is among them."""
MOST_TEXT = 1_200_000
"""Characters of all rows' texts that a page holds."""
MOST_GROUPS, MOST_REASONS, MOST_CLASSES = 20, 20, 20
MOST_SOURCES = 3
"""Sources of rows that the page's title names."""
MOST_NAMED = 8
"""Rows of one group that are named."""
ROLES = ("system", "user", "assistant", "tool", "template", "prompt")


@attrs.frozen(kw_only=True)
class Finding:
    """Something that is worth knowing of the rows.

    Attributes:
        kind: "bad", "warn" or "good".
        text: It, in a sentence.
        place: The section of the page that says more; empty if none does.
    """

    kind: str
    text: str
    place: str = ""


@attrs.frozen(kw_only=True)
class Group:
    """Rows that have something in common.

    Attributes:
        rows: The first of them, in words.
        n_more: How many there are besides.
    """

    rows: str
    n_more: int


@attrs.frozen(kw_only=True)
class Overlap:
    """What the rows to validate on share with those to train on.

    Attributes:
        n_rows: Rows to validate on that are equal to one that is trained on.
        n_images: Rows to validate on with an image that is trained on.
        pairs: Some of them: (which is shared, row to validate on, row to train on).
    """

    n_rows: int
    n_images: int
    pairs: tuple[tuple[str, int, int], ...]


@attrs.frozen(kw_only=True)
class ClassCount:
    """An answer that several rows have.

    Attributes:
        answer: The answer.
        counts: Its rows in each data set.
        shares: Percent of the rows of each that have an answer.
    """

    answer: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]


def make_page(
    recipe: Recipe,
    data: Data,
    censuses: Sequence[Census],
    chosen: Sequence[Chosen],
    *,
    title: str,
    facts: Sequence[str],
) -> str:
    """Look at the chosen rows and write the page.

    Args:
        recipe: The recipe.
        data: As `load_data` gives it.
        censuses: The counts of the rows to train on, and of those to validate on if there are any, images compared.
        chosen: The rows that are shown.
        title: What was chosen, in words.
        facts: Sentences about the template and the columns.
    """
    share = min(LARGEST_SHARE, MOST_PICTURE_BYTES // max(1, len(chosen)))
    looks = [look_at(data, row, share) for row in chosen]
    most_text = min(MOST_CHARACTERS, MOST_TEXT // max(1, len(chosen)))
    overlap = find_overlap(censuses)
    return render(
        "rows.html.j2",
        "rows.css",
        recipe=recipe,
        rows=name_rows(recipe),
        model_type=data.files.model_type,
        title=title,
        facts=facts,
        censuses=censuses,
        findings=find_findings(recipe, censuses, overlap),
        histograms=[draw_all(recipe, census) for census in censuses],
        classes=count_classes(censuses),
        overlap=overlap,
        groups=[
            tuple(_group(found.groups(), census) for found in (census.equal, census.images)) for census in censuses
        ],
        looks=[(look, fold(look.pieces, HEAD, TAIL), fold(look.lost, HEAD, 0)) for look in looks],
        roles=[role for role in ROLES if any(piece.role == role for look in looks for piece in look.pieces)],
        most_text=most_text,
        shorten=lambda pieces: fold(pieces, most_text, 0)[0],
        most_reasons=MOST_REASONS,
        most_groups=MOST_GROUPS,
    )


def name_rows(recipe: Recipe) -> str:
    """Name the rows of a recipe by its path, or by those of its sources."""
    data = recipe.data
    names = [str(source.path) for source in data.sources] or [str(data.path)]
    more = f" and {len(names) - MOST_SOURCES} more" if len(names) > MOST_SOURCES else ""
    return ", ".join(names[:MOST_SOURCES]) + more


def draw_all(recipe: Recipe, census: Census) -> list[str]:
    """Draw the histograms of a data set."""
    numbers = census.numbers
    shares = [100 * n / kept for n, kept in zip(numbers.n_image_tokens, numbers.n_kept, strict=True)]
    learned = [100 * n / kept for n, kept in zip(numbers.n_supervised, numbers.n_kept, strict=True)]
    limit = float(recipe.data.max_seq_length)
    drawn = [
        draw_histogram(numbers.n_tokens, "tokens of a row, before it is cut", "tokens", limit=limit),
        draw_histogram(numbers.n_supervised, "tokens of a row that are learned", "tokens"),
        draw_histogram(learned, "share of tokens that are learned", "%", whole=False),
    ]
    if census.n_images:
        drawn += [
            draw_histogram(shares, "share of tokens that stand for images", "%", whole=False),
            draw_histogram(numbers.widths, "width of images before the processor", "pixels"),
            draw_histogram(numbers.heights, "height of images before the processor", "pixels"),
        ]
    return [chart for chart in drawn if chart]


def find_overlap(censuses: Sequence[Census]) -> Overlap | None:
    """Find what is validated on and trained on; None if nothing is validated on."""
    if len(censuses) < 2:  # noqa: PLR2004 - to train on, and to validate on
        return None
    train, valid = censuses
    rows = sorted(valid.equal.shared(train.equal))
    images = sorted(valid.images.shared(train.images))
    pairs = [("the whole row", *pair) for pair in rows] + [("an image", *pair) for pair in images]
    return Overlap(
        n_rows=len({row for row, _ in rows}),
        n_images=len({row for row, _ in images}),
        pairs=tuple(pairs[:MOST_GROUPS]),
    )


def count_classes(censuses: Sequence[Census]) -> list[ClassCount]:
    """Count the answers that are classes, those of the most rows first; none if answers are no classes."""
    if not censuses[0].answers.are_classes():
        return []
    commonest = [answer for answer, _ in censuses[0].answers.counts.most_common(MOST_CLASSES)]
    # What is only validated on shows a split that is not even.
    for census in censuses[1:]:
        more = (answer for answer, _ in census.answers.counts.most_common(MOST_CLASSES) if answer not in commonest)
        commonest += list(more)[: max(0, MOST_CLASSES + 5 - len(commonest))]
    return [
        ClassCount(
            answer=answer,
            counts=tuple(census.answers.counts[answer] for census in censuses),
            shares=tuple(100 * census.answers.counts[answer] / max(1, census.answers.n_rows) for census in censuses),
        )
        for answer in commonest
    ]


def find_findings(recipe: Recipe, censuses: Sequence[Census], overlap: Overlap | None) -> list[Finding]:
    """Say what is worth knowing of the rows, the worst first."""
    found = []
    for census in censuses:
        name = f"{census.name}: "
        if census.n_refused:
            skips = recipe.data.on_bad_row == "skip"
            skipped = "; training leaves such rows out" if skips else "; training ends at the first"
            text = f"{name}{with_noun(census.n_refused, 'row')} cannot be learned from{skipped}"
            found.append(Finding(kind="bad", text=text, place="refused"))
        if census.cuts.n_rows:
            cut = with_noun(census.cuts.n_rows, "row")
            text = f"{name}{cut} cut by data.max_seq_length; {census.cuts.describe_losses()}"
            found.append(Finding(kind="warn", text=text, place="lengths"))
        if census.left_out:
            left_out = with_noun(census.left_out, "row")
            text = f'{name}{left_out} left out by data.on_long_row = "skip"'
            found.append(Finding(kind="warn", text=text, place="lengths"))
        if census.n_duplicates:
            text = f"{name}{with_noun(census.n_duplicates, 'row')} equal to an earlier one"
            found.append(Finding(kind="warn", text=text, place="duplicates"))
    if overlap is not None and overlap.n_rows:
        same = with_noun(overlap.n_rows, "row")
        text = f"{same} to validate on, equal to rows that are trained on: the validation loss is too low"
        found.insert(0, Finding(kind="bad", text=text, place="overlap"))
    elif overlap is not None and overlap.n_images:
        text = f"{with_noun(overlap.n_images, 'row')} to validate on, with an image that is trained on"
        found.append(Finding(kind="warn", text=text, place="overlap"))
    answers = censuses[0].answers
    if answers.are_classes():
        answer, n = answers.counts.most_common(1)[0]
        if 2 * n > answers.n_rows:
            share = f"{n / answers.n_rows:.0%} of the rows to train on"
            text = f"{share} have the answer {answer!r}; a model that always gives it scores as much"
            found.append(Finding(kind="warn", text=text, place="answers"))
    return found or [Finding(kind="good", text="no row is refused, cut or twice there")]


def _group(groups: Sequence[Sequence[int]], census: Census) -> list[Group]:
    return [
        Group(rows=", ".join(map(census.name_number, rows[:MOST_NAMED])), n_more=max(0, len(rows) - MOST_NAMED))
        for rows in groups[:MOST_GROUPS]
    ]
