"""Whether a row of a batch is alone: with other rows, padding, later tokens, and rows joined or packed before it."""

import attrs

from ...data.collate import collate, collate_packed
from ...errors import CheckError
from ...ops.buckets import bucket_length
from .subject import OTHER_SHAPE, PIXELS, SAME_SHAPE, LeftOut, Subject, bounded, changed, changed_pixels, share_of

MULTIPLES = (64, 128, 256)
"""Of tokens: rows are padded to the first one that is more than they need. Some models have few positions."""

FILLED = 2
"""How many times as many rows as examples the batch has whose rows are joined: half of it is padding at least."""

LEAST = {"float32": 1e-4, "tf32": 1e-3, "rounded": 3e-3}
"""Share of the spread by which another image changes logits at least."""


def check_images(subject: Subject) -> str:
    """Give the first row another image: its logits change."""
    example = subject.examples[0]
    other = attrs.evolve(example, inputs={**example.inputs, PIXELS: changed_pixels(example.inputs[PIXELS])})
    share, least = share_of(subject.alone(other), subject.alone(example)), LEAST[subject.precision]
    if not share >= least:
        msg = (
            f"another image changes the logits of {example.source} by {share:.1e} of their spread: the model does not "
            "see its images; weights of the tower are missing, or config.json and the processor name different image "
            "tokens"
        )
        raise CheckError(msg)
    return f"another image changes logits by {share:.2g} of their spread"


def check_rows(subject: Subject) -> str:
    """Change the other rows of a batch, text and image: the logits of a row stay, in arrays of the same shapes."""
    examples = subject.examples
    batch = collate(examples)
    before = subject.row_logits(batch, range(len(examples)))
    worst = 0.0
    for kept in range(len(examples)):
        others = [example if row == kept else changed(example) for row, example in enumerate(examples)]
        (found,) = subject.row_logits(collate(others), [kept])
        problem = (
            f"the logits of {examples[kept].source} {{found}} when other rows of its batch change: rows see one "
            "another; do not train this model with a batch_size above 1, and report it"
        )
        worst = max(worst, bounded(share_of(found, before[kept]), SAME_SHAPE[subject.precision], problem))
    return f"{len(examples)} rows; off by {worst:.1e} when the others change"


def check_padding(subject: Subject) -> str:
    """Pad rows further, with another token, beside a filler: their logits are those of each alone, unpadded."""
    examples, rows = subject.examples, range(len(subject.examples))
    length = collate(examples).tokens.shape[1]
    multiple = next((size for size in MULTIPLES if bucket_length(length, size) > length), MULTIPLES[-1])
    batches = [collate(examples, len(examples) + 1, pad_id, multiple) for pad_id in (0, 1)]
    found, refilled = (subject.row_logits(batch, rows) for batch in batches)
    worst = 0.0
    for example, padded, other in zip(examples, found, refilled, strict=True):
        problem = (
            f"the logits of {example.source} {{found}} when it is padded: padding is seen; do not train this model "
            "with a batch_size above 1, and report it"
        )
        worst = max(worst, bounded(share_of(padded, subject.alone(example)), OTHER_SHAPE[subject.precision], problem))
        bounded(share_of(other, padded), SAME_SHAPE[subject.precision], problem)
    return f"{len(examples)} rows padded to {batches[0].tokens.shape[1]} tokens; off by {worst:.1e}"


def check_causality(subject: Subject) -> str:
    """Change the last token that is read: all earlier logits stay, and its own change."""
    worst = 0.0
    for example in subject.examples:
        tokens = example.tokens.copy()
        last = len(tokens) - 2
        words = tokens[:last][~example.placeholders[:last]]
        tokens[last] = next(token for token in words[::-1] if token != tokens[last])
        before, after = (subject.alone(row) for row in (example, attrs.evolve(example, tokens=tokens)))
        problem = (
            f"earlier logits of {example.source} {{found}} with a later token: the model sees what it is to predict, "
            "and would learn to copy; it cannot be trained this way"
        )
        worst = max(worst, bounded(share_of(after[:-1], before[:-1]), SAME_SHAPE[subject.precision], problem))
    return f"earlier logits are off by {worst:.1e} when a later token changes"


def check_joining(subject: Subject) -> str | LeftOut:
    """Join padded rows to one behind the embedding, as a step does: each has the logits that it has alone."""
    examples = subject.examples
    batch = collate(examples, FILLED * len(examples))
    n_places = subject.backbone.count_places(batch)
    if n_places == batch.tokens.size:
        return LeftOut("padded rows of this family are not joined")
    worst = 0.0
    found = subject.row_logits(batch, range(len(examples)), joined=True)
    for example, joined in zip(examples, found, strict=True):
        problem = (
            f"the logits of {example.source} {{found}} when the rows of its batch are joined: rows see one another; do "
            "not train this model with a batch_size above 1, and report it"
        )
        worst = max(worst, bounded(share_of(joined, subject.alone(example)), OTHER_SHAPE[subject.precision], problem))
    return f"{len(examples)} rows joined to one of {n_places} tokens; off by {worst:.1e}"


def check_packing(subject: Subject) -> str | LeftOut:
    """Pack rows into one: each has the logits that it has alone, whatever stands before it."""
    if not subject.backbone.family.forward.packs:
        return LeftOut("rows of this family are not packed (train.batching)")
    examples = subject.examples
    rows = range(len(examples))
    found = subject.row_logits(collate_packed([examples]), rows)
    others = [changed(examples[0]), *examples[1:]]
    changed_logits = subject.row_logits(collate_packed([others]), rows[1:])
    worst = 0.0
    for row, example in enumerate(examples):
        problem = (
            f"the logits of {example.source} {{found}} when rows are packed before it; use train.batching = 'grouped', "
            "and report it"
        )
        worst = max(
            worst, bounded(share_of(found[row], subject.alone(example)), OTHER_SHAPE[subject.precision], problem)
        )
        if row:
            share = share_of(changed_logits[row - 1], found[row])
            bounded(share, SAME_SHAPE[subject.precision], problem.replace("are packed", "that are packed change"))
    return f"{len(examples)} rows in one of {collate_packed([examples]).tokens.shape[1]} tokens; off by {worst:.1e}"
