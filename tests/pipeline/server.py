"""A fork server: imports what a stage imports, once, and forks a process for each run, as a command of DVC's would be.

    python server.py     reads one order a line, as JSON, and answers each with one line

A forked process is a stage's own in all that the frame looks at: its code lies in the folder's `src`, and was imported
by the server. It may be killed from outside, at a time, or by its own hand, at a moment of its work.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

ANY = {
    "a half-written file": "os.fsync",  # nothing is promised before it returns, so half of the file is lost
    "the end of the stage": "tiny_lm.runner.run._finish",
}
TRAIN = {
    "a training step": "tiny_lm.training.module.CausalLMModule.training_step",
    "an optimizer step": "tiny_lm.training.module.CausalLMModule.on_before_optimizer_step",
    "a validation": "tiny_lm.training.module.CausalLMModule.validation_step",
    "the start of a resume checkpoint": "tiny_lm.training.resume.AtomicCheckpointIO.save_checkpoint",
    "the start of the outputs": "tiny_lm.training.fit.save_checkpoint",
    "the end of the outputs": "tiny_lm.training.loggers.LiveLogger.summarize",
}
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")  # audit events; os.replace is a rename, and see `_watch`
CHANGE = "a file operation"


def serve():
    for line in sys.stdin:
        order = json.loads(line)
        importlib.import_module(f"tiny_lm.stages.{order['stage']}")  # once, for all that follow
        if order["stage"] == "train":
            importlib.import_module("tiny_lm.training.fit")
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            _child(order, write)
        os.close(write)
        print(json.dumps(_end(pid, read, order.get("kills", []))), flush=True)


def _end(pid, read, kills):
    """Waits for the process, and meanwhile kills it at [seconds, signal] each; it is not reaped before that."""
    started = time.monotonic()
    killed = 0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if killed < len(kills) and time.monotonic() - started >= kills[killed][0]:
            os.kill(pid, kills[killed][1])
            killed += 1
        time.sleep(0.001)
    with os.fdopen(read) as file:
        counts = json.loads(file.read() or "{}")
    return {
        "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started,
        "killed": killed, "counts": counts, "peak_megabytes": usage.ru_maxrss / 1e3,
    }  # fmt: skip


def _child(order, write):
    os.setsid()
    os.chdir(order["folder"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = [order["stage"]]
    code, counts = 1, {}
    try:
        main = importlib.import_module(f"tiny_lm.stages.{order['stage']}").main
        run_stage = importlib.import_module("tiny_lm.runner.run").run_stage
        _watch(order["stage"], counts, *order.get("moment", ("", 0, 0)))
        if "megabytes" in order:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (order["megabytes"] << 20),) * 2)
        run_stage(order["stage"], lambda name: main)
        code = 0
    except SystemExit as end:  # as Python ends a program
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(write, json.dumps(counts).encode())
        os._exit(code)


def _watch(stage, counts, moment, number, kill):
    """Counts the moments of each kind; at the one that is asked for, the process sends itself the signal."""

    def reached(kind, fd=None):
        counts[kind] = counts.get(kind, 0) + 1
        if kind == moment and counts[kind] == number:
            if fd is not None and kill == signal.SIGKILL:
                with contextlib.suppress(OSError):  # opened to read
                    os.ftruncate(fd, os.fstat(fd).st_size // 2)
            os.kill(os.getpid(), kill)

    def audit(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            reached(CHANGE)

    def wrap(kind, owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **options):
            reached(kind, args[0] if name == "fsync" else None)
            return original(*args, **options)

        setattr(owner, name, wrapped)

    for kind, path in (ANY | TRAIN if stage == "train" else ANY).items():
        owner, _, name = path.rpartition(".")
        wrap(kind, pkgutil.resolve_name(owner), name)
    sys.addaudithook(audit)


if __name__ == "__main__":
    serve()
