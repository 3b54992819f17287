"""Metrics of your own: functions of your modules, named `module:function` in a recipe."""

import functools
import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import EvaluationError, RecipeError
from ..metric import Measured, Metric, sums_of_means
from ..prediction import Prediction

BETWEEN = ":"
"""Stands between a module's name and its function's."""


def load_metric(name: str) -> Metric:
    """Import a function, which is called as `function(predictions, references, rows)`.

    It gets the answers, the expected answers, and the columns of the rows, three lists of equal length. It gives a
    list with a number for each row, None where it does not apply, or a dict of names to numbers, values over all rows.
    Its attribute `higher_is_better`, if it has one, says whether more is better.

    Args:
        name: "module:function"; the module may lie in the folder in which the command is run.

    Raises:
        RecipeError: There is no such module or function, or the module cannot be imported.
    """
    module_name, _, function_name = name.partition(BETWEEN)
    where = f"eval.metrics: found {name!r}"
    try:
        module = _import(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            msg = f"{where}, and {module_name} imports {error.name}, which is not installed; install it"
        else:
            msg = f"{where}, and there is no module {module_name}; run the command in the folder of {module_name}.py"
        raise RecipeError(msg) from None
    except (Exception, SystemExit) as error:
        msg = f"{where}, and importing {module_name} raised {_describe(error)}; mend the module"
        raise RecipeError(msg) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        msg = f"{where}, and {module_name} has no function {function_name!r}; it has {', '.join(functions) or 'none'}"
        raise RecipeError(msg)
    is_higher_better = bool(getattr(function, "higher_is_better", True))
    measure = functools.partial(_measure, name, function_name, function)
    return Metric(name=function_name, measure=measure, is_higher_better=is_higher_better)


def _import(name: str) -> Any:
    """Import a module that may lie in the current folder, which a command of its own does not look into."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def _measure(name: str, short: str, function: Callable[..., Any], predictions: Sequence[Prediction]) -> Measured:
    try:
        found = function(
            [prediction.answer for prediction in predictions],
            [prediction.expected for prediction in predictions],
            [dict(prediction.columns) for prediction in predictions],
        )
    except (Exception, SystemExit) as error:
        # A script's function may end its process; a training is not to end with it.
        msg = f"eval.metrics: {name!r} raised {_describe(error)}; mend the function"
        raise EvaluationError(msg) from error
    if isinstance(found, Mapping):
        fixed = {f"{short}.{key}": _number(name, value) for key, value in found.items()}
        return Measured(rows=[{} for _ in predictions], sums={}, fixed=fixed)
    values = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(values, (list, tuple)) or len(values) != len(predictions):
        what = f"{len(values)} values" if isinstance(values, (list, tuple)) else f"{type(found).__name__}"
        msg = f"eval.metrics: {name!r} gave {what}, expected a list of {len(predictions)} numbers or a dict of numbers"
        raise EvaluationError(msg)
    rows = [{} if value is None else {short: _number(name, value)} for value in values]
    return Measured(rows=rows, sums=sums_of_means(rows))


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        msg = f"eval.metrics: {name!r} gave {value!r:.80}, expected a finite number, or None where it does not apply"
        raise EvaluationError(msg)
    return number


def _describe(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' * bool(said)}{said[:200]}"
