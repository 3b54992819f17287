"""Code of others that is run on what users give: templates, processors, tokenizers, mlx-vlm's models.

What such code raises is of any type. It becomes an error of vlora's here and nowhere else, so that what is no fault
of a row or a model, a lack of memory above all, stays what it is wherever that code runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import VloraError
from ..memory.limits import is_out_of_memory


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
        raise name(error) from error
