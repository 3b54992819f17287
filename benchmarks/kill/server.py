"""Runs of vlora in processes of their own, made by forking one that has imported it: its imports take seconds.

    python -m benchmarks.kill.server < REQUESTS

A request is a line of JSON: `arguments` of the command line, `folder` to start in, `watched` folders, `site` and `call`
before which the run is killed, or `after_s`, the seconds after which it is; `log` names a file for the calls that it
makes, `output` one for what it prints. The answer is its exit status, negative after a signal, and its seconds.
"""

import atexit
import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

POLL_S = 0.002


def main() -> None:
    """Answer requests until there are none."""
    # Not before the process has been started: these take long.
    import datasets  # noqa: F401
    import mlx_vlm.models.qwen3_vl  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import vlora.cli.main
    import vlora.run.fit

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        process = os.fork()
        if not process:
            _run(asked, vlora.cli.main.main)
        status = _wait(process, asked.get("after_s"))
        print(json.dumps({"status": status, "seconds": time.perf_counter() - began}), flush=True)


def _wait(process: int, after_s: float | None) -> int:
    """Wait for a process; kill it after so many seconds."""
    if after_s is not None:
        end = time.perf_counter() + after_s
        while time.perf_counter() < end:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(POLL_S)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _run(asked: dict[str, Any], command: Any) -> None:
    """Be a run, in this process, and end it."""
    os.chdir(asked["folder"])
    handle = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    shim = ctypes.CDLL(None)
    for folder in asked["watched"]:
        shim.vlora_watch(str(Path(folder)).encode())
    if "log" in asked:
        shim.vlora_log(asked["log"].encode())
    if "site" in asked:
        shim.vlora_kill_at(asked["site"].encode(), ctypes.c_long(asked["call"]))
    status = command(asked["arguments"])
    # As the interpreter ends, but for taking down all that was imported.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
