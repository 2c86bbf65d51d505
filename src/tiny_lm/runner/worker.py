"""A worker: one of several processes that run a stage together, on one device each (node.py)."""

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable

from tiny_lm.runner.messages import LOST_PEER, OWN, PEER, explain
from tiny_lm.runner.stage import Stage

PR_SET_PDEATHSIG = 1  # prctl.h


def run_worker(stage: Stage, load: Callable[[str], Callable[[Stage], None]]) -> None:
    """Runs the stage. If it fails, ends the process with exit code 1 after reporting one line to the node."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # when the node's process ends
    try:
        load(stage.name)(stage)
    except BaseException as error:
        text = explain(error, has_peers=True)
        with contextlib.suppress(OSError):
            os.write(0, json.dumps([PEER if text == LOST_PEER else OWN, text]).encode() + b"\n")
        with contextlib.suppress(OSError):
            (stage.folder() / f"error-{os.environ['RANK']}.txt").write_text(traceback.format_exc(), "utf-8", "replace")
        sys.stderr.flush()
        os._exit(1)  # without waiting for others at exit
