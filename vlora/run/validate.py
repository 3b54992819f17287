"""Events of a validation: the loss on held-out rows."""

from collections.abc import Callable, Generator

from ..events import Event, Warned, Working
from ..measured import find_means
from .choice import VALID_LOSS
from .context import RunContext
from .untrained import tell_untrained


def validate(run: RunContext, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
    """Validate the newest state and write its loss, if there are rows to validate on.

    Args:
        run: The run.
        should_stop: Asked between batches; True leaves the validation off where it is.

    Returns:
        Whether it was left off.
    """
    validator = run.validator
    if validator is None:
        return False
    yield Working(what="validating")
    found = validator.measure(run.loop.state, should_stop)
    if found is None:
        run.left_off += ("validation",)
        return True
    yield from run.drain_events()
    if found.cuts.n_rows and not validator.has_told_cuts:
        # Once: they are the same every time.
        validator.has_told_cuts = True
        yield Warned(message=f"validation: {found.cuts.describe()}")
    if not found.n_tokens:
        name = validator.rows.name
        yield Warned(message=f"validation: of the rows of {name} that were read none can be learned from")
        return False
    step = int(run.loop.state.step)
    line = {"step": step, VALID_LOSS: found.loss, "valid_tokens": found.n_tokens, "valid_rows": found.n_rows}
    line |= {f"valid_{name}": value for name, value in find_means(found.measured).items()}
    run.judge(line)
    run.metrics.validated = step
    yield run.metrics.write(line)
    if not step:
        yield from tell_untrained(run, found.loss, is_held_out=True)
    return False
