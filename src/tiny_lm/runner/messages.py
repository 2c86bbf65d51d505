"""Messages of the runner: what went wrong, in one line, and what to do."""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback

RESUME = "run the same command to resume"
LOST_PEER = f"another process of this run was killed; {RESUME}"
OWN, KILLED, LOST, PEER = range(4)  # kinds of failures in a run of several processes, the likeliest cause first
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "a closed terminal (SIGHUP)"}
OUT_OF_MEMORY = re.compile(  # the wording of Python, torch, CUDA and the system
    "MemoryError|OutOfMemory|out of memory|ALLOC_FAILED|allocate memory|start new thread|map segment"
    "|temporarily unavail|not enough memory",
    re.I,
)


def say(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # the terminal is closed, which is no reason to lose a run
        with open(os.devnull, "wb") as nowhere:  # where Python can write the rest at exit; otherwise it exits with 120
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


def explain(error: BaseException, *, has_peers: bool = False) -> str:
    """One line about a mistake of the user or a failure of the machine; a bug in the code keeps its traceback.

    With `has_peers`, a connection that was reset means that another process of the run was killed.
    """
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by Ctrl-C; {RESUME}"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0
        by = next((name for number, name in SIGNALS.items() if code == 128 + number), f"exit code {error.code}")
        return f"stopped by {by}; {RESUME}"
    text = " ".join(str(error).split())
    cause: BaseException | None = error
    while cause:  # a library may wrap one error in another
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full ({cause.filename or 'while writing'}); free some space and run again"
        if OUT_OF_MEMORY.search(repr(cause)):
            return f"out of memory: {text[:200]}; lower train.micro_batch_size or evaluate.batch_size, or free some"
        if has_peers and "by peer" in repr(cause):  # the wording of gloo and NCCL
            return LOST_PEER
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("tiny_lm"):
        return (
            f"{sys.executable} does not have the package {error.name}; activate the environment "
            "(`source .venv/bin/activate`), which `make setup` creates"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, OSError | ValueError):
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return "failed, see above"
    return text
