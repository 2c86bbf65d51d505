"""The frame that every stage runs in: one at a time, on data that is what dvc.lock records.

On a failure it removes what is half-written and brings the previous outputs back, which DVC deleted before the stage
began. A user's mistake ends in one line and exit code 1, and never in a traceback.
"""

import contextlib
import errno
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny_lm.guard import FIRST, ROOT, Stage, hold
from tiny_lm.params import read_yaml

FINISHED = "finished"  # a file in the recovery state of a run that ended well: the MD5 sums of its metrics
RUNNING = Path(".work/running")  # the name of the stage that runs, or did not end well and left outputs missing


def run_stage(name: str, load: Callable[[str], Callable[[Stage], None]]) -> None:
    """Runs a stage's main, which `load` returns once its libraries are imported, in the frame, and ends the process: 0,
    or 1 with one line that says what and what to do.
    """
    plan = read_yaml(Path("dvc.yaml"))["stages"][name]
    if not FIRST:  # the first process keeps the frame
        return load(name)(Stage(name, plan))
    lock = None
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
                signal.signal(number, lambda number, _: sys.exit(128 + number))
        lock = hold(Path(".work/lock"), "a stage already runs in this workspace: wait for it, or stop it")
        stage = Stage(name, plan)
        if not Path(__file__).resolve().is_relative_to(Path("src").resolve()):
            raise ValueError(f"{__file__} is not this tree's code; use `dvc repro`, or set PYTHONPATH=src")
        if RUNNING.exists():
            failed = RUNNING.read_text()
            back = f"unless they are made again now, `tiny-lm restore {failed}` brings back what DVC's cache has"
            stage.say(f"{failed} did not end well, and outputs of it are missing; {back}")
        RUNNING.write_text(name)
        with _start("check", "--inputs", *map(str, stage.data)) as check:  # DVC trusts its memory, and its remotes
            try:
                main = load(name)  # reads no data: the check runs meanwhile
                said = check.communicate()[1]
            finally:
                check.kill()
        if check.returncode:
            raise ValueError(said.strip().removeprefix("tiny-lm check: "))
        _forget_recorded(stage)
        main(stage)
        _finish(stage, plan)
        RUNNING.unlink(missing_ok=True)
    except BaseException as error:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a second Ctrl-C does not stop what follows
            signal.signal(number, signal.SIG_IGN)
        line = f"{name}: {_explain(error)}"
        line += (
            _restore(plan, name) if lock else f". After that, `tiny-lm restore {name}` brings the earlier outputs back"
        )
        with contextlib.suppress(OSError):
            Path(".work/error.txt").write_text(traceback.format_exc(), "utf-8", "replace")
        sys.exit(line)


def _forget_recorded(stage: Stage) -> None:
    """Throws finished recovery states away that DVC has recorded: what is asked for again, as by `--force`, is made
    again. One that dvc.lock and the run-cache do not know stays: DVC died, and what was made need not be made twice.
    """
    known = (Path("dvc.lock"), *Path(ROOT, ".dvc/cache/runs").glob("*/*/*"))
    for finished in Path(ROOT, ".work", stage.name).glob(f"*/{FINISHED}"):
        metrics = finished.read_text().split()  # their MD5 sums, and with them the time that the run took
        if any(all(md5 in text for md5 in metrics) for text in (path.read_text() for path in known if path.is_file())):
            with contextlib.suppress(ValueError):  # it is in use in another workspace
                _lock = hold(finished.parent.with_suffix(".lock"), "")
                shutil.rmtree(finished.parent)


def _finish(stage: Stage, plan: Mapping[str, Any]) -> None:
    """Compares the end with the start, since DVC records the end; then nothing needs to be recovered any more."""
    changed = stage.changes()
    if changed:
        raise ValueError(
            f"edited while the stage ran: {', '.join(changed)}. What it made belongs to the earlier state and is "
            "not recorded. Put that back to finish this run, or run again with the new state"
        )
    if stage.work:  # one finished state stays, for DVC may die before it has recorded the run
        files = [Path(next(iter(entry))) for entry in plan.get("metrics", ())]
        (stage.work / FINISHED).write_text(" ".join(hashlib.md5(file.read_bytes()).hexdigest() for file in files))


def _restore(plan: Mapping[str, Any], name: str) -> str:
    """Removes half-written outputs and brings back those that dvc.lock records; says how that went."""
    with contextlib.suppress(OSError, MemoryError):
        for entry in (*plan.get("outs", ()), *plan.get("metrics", ()), *plan.get("plots", ())):
            path = Path(entry if isinstance(entry, str) else next(iter(entry)))
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        restore = _start("restore", "--locked", name)
        said = restore.communicate()[0]
        if restore.returncode == 0:
            return ". The earlier outputs are back" if said else ""
    again = f"`tiny-lm restore {name}` brings them or says why not, `dvc repro` builds them"
    return f". Not all earlier outputs are back: {again}"


def _start(*arguments: str) -> subprocess.Popen[str]:
    """One of our tools, in a process of its own: it reads no params, and can change no byte that a stage makes."""
    command = [sys.executable, "-c", "from tiny_lm.cli import main; main()", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def _explain(error: BaseException) -> str:
    """One line for what a user or the machine did; a mistake in the code keeps its traceback."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        signals = (128 + signal.SIGTERM, 128 + signal.SIGHUP)
        by = "a signal" if isinstance(error, SystemExit) and error.code in signals else "Ctrl-C"
        return f"stopped by {by}; the same command goes on"
    text = " ".join(str(error).split())
    cause: BaseException | None = error
    while cause:  # a library may raise one thing after another
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full ({cause.filename or 'while writing'}); free some space and run again"
        if isinstance(cause, MemoryError) or re.search(
            "OutOfMemory|out of memory|ALLOC_FAILED|allocate memory|start new thread|map segment|temporarily unavail",
            repr(cause),
        ):
            return f"out of memory: {text[:200]}; lower train.micro_batch_size or evaluate.batch_size, or free some"
        if "by peer" in repr(cause):  # gloo's and NCCL's words
            return "another process of this run was killed; the same command goes on"
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
    if not isinstance(error, OSError | ValueError):
        traceback.print_exc()
        return "failed, see above"
    return text
