"""Runs that are left before their end: none of them, and none of their threads, outlives the interpreter.

A run is a generator. Python closes one at once when the last reference to it is dropped. One that something still
holds when the interpreter ends (a variable, the traceback of an error) would be closed while modules are taken down:
MLX may be gone by then, threads can no longer be started, and those that work ahead are waited for before, with all
that they have still to do. So such runs are closed first.

A thread that has used MLX holds objects of Python's in C++ variables of its own, whose destructors take the
interpreter's lock. Up to version 3.12 Python's `join` returns before they have run, and one that runs while the
interpreter ends aborts the process. So the end of the interpreter waits until such threads are gone from the system.
"""

import atexit
import contextlib
import functools
import inspect
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

TASKS = Path("/proc/self/task")
"""Linux lists a process's threads here, by their native ids."""

LONGEST_WAIT_S = 1.0
LOOK_S = 0.002
BLIND_WAIT_S = 0.05
"""Where threads are not listed: destructors take less than a hundredth of a second."""

_OPEN: "weakref.WeakKeyDictionary[Generator[Any, None, None], threading.Thread]" = weakref.WeakKeyDictionary()
_WATCHED: dict[int, "weakref.ref[threading.Thread]"] = {}
"""Threads that may have used MLX, by their native ids."""


def close_at_exit(run: Generator[Any, None, None]) -> None:
    """Close a run when the interpreter ends, unless it is over by then.

    Args:
        run: Taken by the thread that calls this. Python waits for other threads than the main one, if they are no
            daemons, and what those still take is left to them.
    """
    watch_thread()
    _OPEN[run] = threading.current_thread()


def watch_thread() -> None:
    """Let the end of the interpreter wait until this thread is gone, once its last function has returned."""
    _listen()
    thread = threading.current_thread()
    if thread is threading.main_thread() or thread.native_id is None:
        return
    if TASKS.is_dir():
        for gone in [native_id for native_id in list(_WATCHED) if not _exists(native_id)]:
            _WATCHED.pop(gone, None)
    _WATCHED[thread.native_id] = weakref.ref(thread)


@functools.cache
def _listen() -> None:
    # Only what is registered here comes before Python waits for threads. There is no public name for it.
    early = getattr(threading, "_register_atexit", atexit.register)
    early(functools.partial(_close, is_last=False))
    atexit.register(functools.partial(_close, is_last=True))


def _close(*, is_last: bool) -> None:
    # However one of them fails to close, the others are closed.
    with contextlib.ExitStack() as closing:
        if is_last:
            closing.callback(_await_threads)
        for run, taker in list(_OPEN.items()):
            is_taken = taker is not threading.current_thread() and taker.is_alive() and not is_last
            if not is_taken and inspect.getgeneratorstate(run) != inspect.GEN_RUNNING:
                closing.callback(run.close)


def _await_threads() -> None:
    """Wait until the watched threads that Python takes for ended are gone from the system, too."""
    end = time.monotonic() + LONGEST_WAIT_S
    threads = [(native_id, found()) for native_id, found in list(_WATCHED.items())]
    ended = [native_id for native_id, thread in threads if thread is None or not thread.is_alive()]
    if ended and not TASKS.is_dir():
        time.sleep(BLIND_WAIT_S)
        return
    while any(map(_exists, ended)) and time.monotonic() < end:
        time.sleep(LOOK_S)


def _exists(native_id: int) -> bool:
    return (TASKS / str(native_id)).exists()
