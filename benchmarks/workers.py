"""Processes that each hold one thing and answer calls of its methods.

A side has the device's memory to itself, what it leaves behind is gone with its process, and what kills it kills
nothing else. Waiting costs nothing, so that several can be open and take turns.
"""

import contextlib
import importlib
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import attrs

CLOSING_S = 20.0


class WorkerError(RuntimeError):
    """The process failed, or died, or did not answer."""


class MissingError(WorkerError):
    """What the process was to hold is not installed here."""


@attrs.frozen
class Failure:
    """An answer that is an error.

    Attributes:
        text: What went wrong, on one line.
        is_missing: A package is not installed.
    """

    text: str
    is_missing: bool = False


class Worker:
    """A process and the pipe to it. Its imports begin at once; `make` waits for them.

    Use as a context manager, or the process stays.
    """

    def __init__(self, module: str, name: str, limit_s: float) -> None:
        """Start the process.

        Args:
            module: Where the thing is defined; imported in the process only.
            name: A callable there; what it returns is held.
            limit_s: How long to wait for an answer.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._limit_s = limit_s
        self._process = context.Process(target=_serve, args=(theirs, module, name), daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False
        self._failure: WorkerError | None = None

    def __enter__(self) -> Self:
        """Give the worker."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(CLOSING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()

    def wait_until_ready(self) -> None:
        """Wait for the imports; raises as `call`, however often it is asked."""
        if self._failure is not None:
            raise self._failure
        if not self._is_ready:
            try:
                self._receive()
            except WorkerError as error:
                self._failure = error
                raise
            self._is_ready = True

    def make(self, *arguments: Any) -> None:
        """Make what the process holds; raises as `call`."""
        self.call("", *arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of what it holds, and wait for what that returns.

        Raises:
            MissingError: A package that the process needs is not installed.
            WorkerError: It failed in another way.
        """
        self.wait_until_ready()
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise WorkerError(self._describe_death()) from None
        return self._receive()

    def _receive(self) -> Any:
        if not self._connection.poll(self._limit_s):
            self._process.kill()
            msg = f"no answer within {self._limit_s:g} s"
            raise WorkerError(msg)
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerError(self._describe_death()) from None
        if isinstance(answer, Failure):
            raise (MissingError if answer.is_missing else WorkerError)(answer.text)
        return answer

    def _describe_death(self) -> str:
        self._process.join(CLOSING_S)
        return f"the process ended with {self._process.exitcode}"


def _serve(connection: Connection, module: str, name: str) -> None:
    """Hold one thing and answer until told to end."""
    held: Any = None
    factory: Callable[..., Any] = dict

    def make(*arguments: Any) -> None:
        nonlocal held
        held = factory(*arguments)

    def answer(function: Callable[[], Any]) -> bool:
        try:
            connection.send(function())
        except ModuleNotFoundError as error:
            connection.send(Failure(f"{error.name} is not installed", is_missing=True))
            return False
        except Exception as error:  # noqa: BLE001 - whatever it was, the other processes go on
            traceback.print_exc()
            connection.send(Failure(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]))
            return False
        return True

    def load() -> None:
        nonlocal factory
        factory = getattr(importlib.import_module(module), name)

    if not answer(load):
        return
    while (request := connection.recv()) is not None:
        method, arguments = request
        answer(lambda: (getattr(held, method) if method else make)(*arguments))  # noqa: B023 - called at once
