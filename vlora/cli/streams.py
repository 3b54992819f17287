"""Output streams whose file takes nothing any more: it has no reader, or its disk is full."""

import io
import os
import sys
from contextlib import suppress
from typing import IO, Any


def discard(stream: IO[Any]) -> None:
    """Lead a stream nowhere: at its end Python would flush it again, fail again, and change the exit status."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def settle(stream: IO[Any]) -> None:
    """Write what a stream still holds, or lead it nowhere if that fails."""
    try:
        stream.flush()
    except (OSError, ValueError):
        discard(stream)


def complain(sentence: str) -> None:
    """Write a sentence to stderr, if it can be written to."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def replace_unencodable() -> None:
    """Let the output streams escape characters that their encoding lacks: rows may contain any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
