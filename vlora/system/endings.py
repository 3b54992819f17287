"""Runs that are left before their end: none of them outlives the interpreter.

A run is a generator. One that is let go of is closed by Python at once. One that something still holds when the
interpreter ends (a variable, the traceback of an error) would be closed while modules are taken down: MLX may be gone
by then, threads can no longer be started, and those that work ahead are waited for before, with all that they have
still to do. So such runs are closed first.
"""

import atexit
import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Generator
from typing import Any

_OPEN: "weakref.WeakKeyDictionary[Generator[Any, None, None], threading.Thread]" = weakref.WeakKeyDictionary()


def close_at_exit(run: Generator[Any, None, None]) -> None:
    """Close a run when the interpreter ends, unless it is over by then.

    Args:
        run: Taken by the thread that calls this. Python waits for other threads than the main one, if they are no
            daemons, and what those still take is left to them.
    """
    _listen()
    _OPEN[run] = threading.current_thread()


@functools.cache
def _listen() -> None:
    # Only what is registered here comes before Python waits for threads. There is no public name for it.
    early = getattr(threading, "_register_atexit", atexit.register)
    early(functools.partial(_close, is_last=False))
    atexit.register(functools.partial(_close, is_last=True))


def _close(*, is_last: bool) -> None:
    # However one of them fails to close, the others are closed.
    with contextlib.ExitStack() as closing:
        for run, taker in list(_OPEN.items()):
            is_taken = taker is not threading.current_thread() and taker.is_alive() and not is_last
            if not is_taken and inspect.getgeneratorstate(run) != inspect.GEN_RUNNING:
                closing.callback(run.close)
