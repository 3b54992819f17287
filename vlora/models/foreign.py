"""Code of others that is run on what users give: templates, processors, tokenizers, mlx-vlm's models.

What such code raises is of any type. It becomes an error of vlora's here and nowhere else, so that what is no fault
of a row or a model, a lack of memory above all, stays what it is wherever that code runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import VloraError
from ..memory.shortage import is_out_of_memory

LONGEST_REASON = 200
"""Characters of what was raised that an error repeats."""


@contextmanager
def foreign(name: Callable[[Exception], VloraError]) -> Iterator[None]:
    """Let whatever is raised become an error of vlora's; one that is already, and a lack of memory, pass as they are.

    Args:
        name: Makes the error of what was raised.

    Raises:
        VloraError: What `name` made.
    """
    try:
        yield
    except VloraError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        named = name(error)
        if isinstance(error, UnicodeDecodeError) and error.encoding.lower().replace("-", "") != "utf8":
            # Files of models are UTF-8; other programs open them in the encoding of the process.
            named.add_note(f"this process reads files as {error.encoding}, PYTHONUTF8=1 in its environment as UTF-8")
        raise named from error


def name_failure(error: Exception) -> str:
    """Say what was raised by its type and its words, on one line and not at any length."""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}..."
    return f"{type(error).__name__}{': ' * bool(said)}{said}"
