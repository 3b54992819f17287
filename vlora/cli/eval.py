"""`python -m vlora eval`: answers rows with a trained model or its base, and scores the answers."""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..recipe.schema import Recipe
from ..system.nouns import with_noun
from .arguments import Parser, make_recipe_parser, named, named_path, positive
from .importing import importing
from .screen import Screen
from .status import DONE

if TYPE_CHECKING:
    from ..run.evaluation import Chosen, Evaluated

EXAMPLES = (
    "eval my.toml # what the recipe's run has trained",
    "eval my.toml --base --rows 50 # the untrained model, on fewer rows",
    "eval my.toml --adapter runs/my/0000200_adapters.safetensors",
    "eval my.toml --split train --write answers.jsonl",
)

N_WORST = 3
SHOWN = 12
"""Characters of a commit that are shown."""

LONGEST = 60
"""Longest answer that is shown, in characters."""


def make_parser() -> Parser:
    """Make the parser of the command's arguments."""
    about = (
        "Answer a recipe's held-out rows with what its run has trained, and measure the answers by eval.metrics. "
        "Nothing is trained, and nothing of the run is changed."
    )
    # The older script's --split names the rows to train on.
    parser = make_recipe_parser("eval", about, EXAMPLES, conflict_handler="resolve")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--adapter", type=named, default=None, help="another adapter than the run's last: a file, or its folder"
    )
    which.add_argument("--base", action="store_true", default=False, help="the model as it is before training")
    parser.add_argument(
        "--split",
        dest="answered",
        default=None,
        metavar="SPLIT",
        help="other rows than the held-out ones: train, or a split of the recipe's data",
    )
    parser.add_argument("--rows", type=positive(int), default=None, help="how many; eval.answer_rows, else all")
    parser.add_argument(
        "--write",
        type=named_path,
        default=None,
        metavar="FILE",
        help="where the answers are written, each with its scores (beside the run's metrics: predictions-eval.jsonl, "
        "with --base, --adapter or --split predictions-eval-WHAT.jsonl)",
    )
    return parser


def prepare(parsed: argparse.Namespace) -> Callable[[Screen], int]:
    """Give what carries out the command."""
    options = {
        "adapter": parsed.adapter,
        "is_base": parsed.base,
        "split": parsed.answered,
        "n_rows": parsed.rows,
        "file": parsed.write,
    }
    return functools.partial(show_evaluation, parsed.recipe, options)


def show_evaluation(recipe: Recipe, options: dict[str, Any], console: Screen) -> int:
    """Answer rows and score the answers, with a progress bar on a terminal, and print the result.

    Args:
        recipe: The recipe.
        options: What is evaluated; see `Chosen`.
        console: Where it is shown.

    Returns:
        0.
    """
    with importing(recipe):
        from ..compilation.known_kernels import begin_for

        # Before the slow imports, so that workers compile meanwhile.
        begin_for(recipe)
        from ..run.evaluation import Chosen
    evaluated = _evaluate(recipe, Chosen(**options), console)
    _show(evaluated, console)
    return DONE


def _evaluate(recipe: Recipe, chosen: "Chosen", console: Screen) -> "Evaluated":
    from ..events import Compiled, Compiling, Skipped, Warned, Working
    from ..run.evaluation import Opened, evaluate_answers
    from .progress.rows import open_progress
    from .view import describe_compilation

    run = evaluate_answers(recipe, chosen)
    with open_progress(console) as progress:
        n_answers = 0
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                found: Evaluated = end.value
                return found
            if isinstance(event, Working):
                progress.begin(event)
                if not (progress.has_bar or event.total):
                    _say(console, f"{event.what} ...")
                continue
            console.tell(event)
            if isinstance(event, Opened):
                after = f" after {with_noun(event.step, 'step', commas=False)}" if event.step else ""
                _say(console, f"model: {event.name}{after}")
                _say(console, f"rows: {event.n_rows} of {event.rows}")
                if event.commits:
                    pinned = ", ".join(f"{name} {commit[:SHOWN]}" for name, commit in event.commits.items())
                    _say(console, f"versions: those of the run, {pinned}")
            elif isinstance(event, Compiling | Compiled):
                console.print(describe_compilation(event), soft_wrap=True)
            elif isinstance(event, Warned):
                console.print(f"[yellow]note[/] {escape(event.message)}", soft_wrap=True)
            elif isinstance(event, Skipped):
                console.print(f"[yellow]skipped[/] {escape(event.reason)}", soft_wrap=True)
            else:
                n_answers += 1
                progress.reach(n_answers)


def _show(evaluated: "Evaluated", console: Screen) -> None:
    """Print the metrics with their intervals, the worst answers, and the file with all answers."""
    n_rows = len(evaluated.predictions)
    width = max((len(name) for name in evaluated.scores.summary), default=0)
    pairs = zip(evaluated.predictions, evaluated.scores.rows, strict=True)
    rows = [{"row": prediction.row, "scores": own} for prediction, own in pairs]
    console.tell("Scores", scores=evaluated.scores.summary, n_rows=n_rows, file=evaluated.file, rows=rows)
    with console.result():
        for name, found in evaluated.scores.summary.items():
            interval = "" if found.low is None else f"  ({found.low:.3f} to {found.high:.3f})"
            over = "" if found.n == n_rows else f"  over {with_noun(found.n, 'row', commas=False)}"
            console.print(f"{escape(name):<{width}}  [bold]{found.mean:.3f}[/]{interval}{over}", soft_wrap=True)
    if evaluated.scores.idle:
        _say(console, f"no row has what this measures: {', '.join(evaluated.scores.idle)}")
    if evaluated.metrics and (worst := _find_worst(evaluated)):
        console.print(f"worst by {escape(evaluated.metrics[0].name)}:", style="bold")
        for place in worst:
            prediction, own = evaluated.predictions[place], evaluated.scores.rows[place]
            _say(console, f"  {prediction.row}: {own[evaluated.metrics[0].name]:.3f}")
            _say(console, f"    expected {_shorten(prediction.expected)}")
            _say(console, f"    answered {_shorten(prediction.answer)}")
    _say(console, f"answers: {evaluated.file}")


def _find_worst(evaluated: "Evaluated") -> Sequence[int]:
    """Return the rows with the lowest scores of the first metric; the best are left out, unless they are wrong, too."""
    metric, rows = evaluated.metrics[0], evaluated.scores.rows
    sign = 1 if metric.is_higher_better else -1
    values = {place: sign * row[metric.name] for place, row in enumerate(rows) if metric.name in row}
    best = max(values.values(), default=0)
    is_good = best > 0 or (best == 0 and sign < 0)
    return sorted((place for place in values if values[place] < best or not is_good), key=values.__getitem__)[:N_WORST]


def _shorten(text: str) -> str:
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def _say(console: Screen, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
