"""Work done ahead in threads: results come in the order of their inputs, and their number is limited.

Threads, because decoding images, tokenizing and large array operations leave Python's lock to others, arrays need not
be copied between processes, and nothing has to be started twice. MLX's streams belong to the thread that made them: an
array that a worker gives away has to be evaluated, or be a host array.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from ..system.leaving import heed

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_workers(given: int | None) -> int:
    """Count the threads that work ahead: the given number, else half of the cores, at least 2 and at most 8.

    The step's own thread and the libraries that several threads share the interpreter with need the rest.
    """
    return given if given is not None else min(8, max(2, (os.cpu_count() or 1) // 2))


SWITCH_S = 5e-4
"""For how long a thread keeps the interpreter while another one asks for it; Python's own is ten times as long.

The step's thread gives the interpreter up and asks for it again dozens of times a step, and waited so long each time:
30 to 60 ms of a step of 180 ms on an H200, beside eight workers.
"""


NAME = "vlora"
"""What the threads' names begin with."""


class WorkerPool:
    """Threads that work ahead; a context, at whose end they have stopped.

    While it lasts, threads share the interpreter in shorter turns (`SWITCH_S`), those of the whole process. And while
    they are held, they begin nothing: the interpreter is the step's thread's alone until it has work for the device,
    which then takes longer than theirs.

    Args:
        n_workers: How many; 0 works in the calling thread, when a result is asked for.
    """

    def __init__(self, n_workers: int) -> None:
        self._is_over = threading.Event()
        self._pool, self._next = (
            ThreadPoolExecutor(n, thread_name_prefix=NAME, initializer=heed, initargs=(self._is_over,)) if n else None
            for n in (n_workers, min(1, n_workers))
        )
        self._may_begin = threading.Event()
        self._may_begin.set()
        self._is_held = False

    def __enter__(self) -> Self:
        """Begin."""
        self._switch_s = sys.getswitchinterval()
        if self._pool is not None:
            sys.setswitchinterval(min(SWITCH_S, self._switch_s))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what has not begun, and wait for what has; what waits itself is told that it need not."""
        self._is_over.set()
        self.release()
        if self._pool is not None:
            # A run that is garbage may be collected by one of its own workers, which cannot wait for itself.
            is_own = threading.current_thread().name.startswith(NAME)
            self._pool.shutdown(wait=not is_own, cancel_futures=True)
            sys.setswitchinterval(self._switch_s)
        if self._next is not None:
            self._next.shutdown(wait=not is_own, cancel_futures=True)

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], n_ahead: int, *, is_next: bool = False
    ) -> "Prefetcher[Item, Result]":
        """Apply a function to items, in order, up to `n_ahead` results before they are asked for.

        Args:
            function: Called by several threads at once, from the first item on.
            items: Drawn by the thread that asks for results.
            n_ahead: Results that are there or being made at most; at least 1.
            is_next: The results are needed before all others: a thread of their own makes them.
        """
        return Prefetcher(self if self._pool else None, function, iter(items), n_ahead, is_next=is_next)

    def hold(self) -> None:
        """Begin no other item; items that have begun, and the one that is waited for, are completed."""
        self._is_held = True
        self._may_begin.clear()

    def release(self) -> None:
        """Allow threads to begin items again."""
        self._is_held = False
        self._may_begin.set()

    def submit(self, function: Callable[[Item], Result], item: Item, *, is_next: bool = False) -> "Future[Result]":
        """Apply a function to an item in one of the threads; in the one for what is needed next if it is."""

        def run() -> Result:
            self._may_begin.wait()
            return function(item)

        pool = self._next if is_next else self._pool
        if pool is None:
            msg = "there are no threads"
            raise RuntimeError(msg)
        return pool.submit(run)

    def wait(self, future: "Future[Result]") -> Result:
        """Wait for what `submit` gave."""
        if not future.done():
            self._may_begin.set()
        try:
            return future.result()
        finally:
            if self._is_held:
                self._may_begin.clear()


class Prefetcher(Generic[Item, Result]):
    """Results in order; an exception is raised in place of its result.

    Attributes:
        n_waits: Results that were not there yet when they were asked for.
    """

    def __init__(
        self,
        workers: WorkerPool | None,
        function: Callable[[Item], Result],
        items: Iterator[Item],
        n_ahead: int,
        *,
        is_next: bool = False,
    ) -> None:
        self.n_waits = 0
        self._is_next = is_next
        self._workers = workers
        self._function = function
        self._items = items
        self._n_ahead = n_ahead
        self._begun: deque[Future[Result]] = deque()
        self._is_over = False

    def __iter__(self) -> Iterator[Result]:
        """Iterate over what is left."""
        return self

    def __next__(self) -> Result:
        """Return the next result as soon as it is complete."""
        if self._workers is None:
            item = next(self._items)
            self.n_waits += 1
            return self._function(item)
        self._begin(self._n_ahead)
        if not self._begun:
            raise StopIteration
        self.n_waits += not self._begun[0].done()
        try:
            return self._workers.wait(self._begun.popleft())
        finally:
            self._begin(self._n_ahead)

    def _begin(self, n_ahead: int) -> None:
        while self._workers is not None and len(self._begun) < n_ahead and not self._is_over:
            try:
                item = next(self._items)
            except StopIteration:
                self._is_over = True
            except Exception as error:  # noqa: BLE001 - raised where the item's result would come
                self._is_over = True
                self._begun.append(Future())
                self._begun[-1].set_exception(error)
            else:
                self._begun.append(self._workers.submit(self._function, item, is_next=self._is_next))
