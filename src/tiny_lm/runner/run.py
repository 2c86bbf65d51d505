"""Runs a stage: one at a time, on inputs that are what dvc.lock records.

DVC deletes the outputs of a stage before it starts. If the stage fails, half-written outputs are removed and the
previous ones restored. A user's mistake ends in one line and exit code 1, never in a traceback.
"""

import contextlib
import errno
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny_lm.io.params import read_yaml
from tiny_lm.runner.code import require_this_tree
from tiny_lm.runner.dvc_lock import file_md5
from tiny_lm.runner.environment import missing_package
from tiny_lm.runner.git import require_full_history
from tiny_lm.runner.locks import WORKSPACE, Locked, hold
from tiny_lm.runner.restore import RUNNING, output_paths, remove, restore_stage
from tiny_lm.runner.stage import FIRST, ROOT, Stage

FINISHED = "finished"  # a file in the work folder of a run that ended well: the MD5 sums of its metrics
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "a closed terminal (SIGHUP)"}
OUT_OF_MEMORY = re.compile(  # in the words of Python, torch, CUDA and the system
    "MemoryError|OutOfMemory|out of memory|ALLOC_FAILED|allocate memory|start new thread|map segment"
    "|temporarily unavail"
)


def run_stage(name: str, load: Callable[[str], Callable[[Stage], None]]) -> None:
    """Runs the main function of a stage, which `load` returns after importing its libraries. If it fails, ends the
    process with exit code 1 and a line that says why and what to do.
    """
    plan = read_yaml(Path("dvc.yaml"))["stages"][name]
    if not FIRST:  # the process of the first device does the rest
        return load(name)(Stage(name, plan))
    lock = None
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, lambda number, _: sys.exit(128 + number))
        lock = hold(WORKSPACE, "a stage is already running in this workspace: wait for it, or stop it")
        require_this_tree()
        require_full_history(ROOT)
        stage = Stage(name, plan)
        if RUNNING.exists():
            failed = RUNNING.read_text()
            stage.say(
                f"the last run of {failed} did not finish, so its outputs are missing; "
                f"`tiny-lm restore {failed}` restores them"
            )
        RUNNING.write_text(name)
        main = _load_while_checking(stage, load)
        _forget_recorded(stage)
        main(stage)
        _finish(stage, plan)
        RUNNING.unlink(missing_ok=True)
    except BaseException as error:
        for number in SIGNALS:  # a second Ctrl-C does not stop what follows
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            Path(".work/error.txt").write_text(traceback.format_exc(), "utf-8", "replace")
        if lock or isinstance(error, OSError):  # no locks: then no stage runs
            end = _restore(plan, name)
        else:  # another stage may be writing these outputs
            end = f"; afterwards, `tiny-lm restore {name}` restores the previous outputs"
        with contextlib.suppress(OSError):  # the terminal is closed
            print(f"{name}: {_explain(error)}{end}", file=sys.stderr, flush=True)
        sys.exit(1)


def _load_while_checking(stage: Stage, load: Callable[[str], Callable[[Stage], None]]) -> Callable[[Stage], None]:
    """The main function of the stage, whose libraries are imported while another process checks its inputs."""
    command = [sys.executable, "-m", "tiny_lm.runner.inputs", *map(str, stage.data)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as check:
        try:
            main = load(stage.name)
            fault = check.communicate()[1]
        finally:
            check.kill()
    if check.returncode:
        lines = fault.splitlines() or [f"exit code {check.returncode}"]
        raise ValueError(lines[-1])  # of a crash the error, without its traceback
    return main


def _forget_recorded(stage: Stage) -> None:
    """Deletes resume checkpoints of finished runs that DVC has recorded: asked for again, as by `--force`, these run
    again. One that neither dvc.lock nor the run-cache knows stays: DVC died, and the work need not be done twice.
    """
    known = (Path("dvc.lock"), *Path(ROOT, ".dvc/cache/runs").glob("*/*/*"))
    for finished in Path(ROOT, ".work", stage.name).glob(f"*/{FINISHED}"):
        metrics = finished.read_text().split()  # they contain the time that the run took, so no other run has them
        if any(all(md5 in text for md5 in metrics) for text in (path.read_text() for path in known if path.is_file())):
            with contextlib.suppress(Locked):  # it is in use in another workspace
                _lock = hold(finished.parent.with_suffix(".lock"), "")
                shutil.rmtree(finished.parent)


def _finish(stage: Stage, plan: Mapping[str, Any]) -> None:
    """Fails if anything changed during the run, because DVC records what it finds at the end."""
    changed = stage.changes()
    if changed:
        raise ValueError(
            f"changed during the run: {', '.join(changed)}. The results belong to the earlier state and are not "
            "recorded. Undo the change and run again to finish this run, or run again with the new state"
        )
    if stage.work:  # stays, because DVC may die before it has recorded the run
        metrics = [Path(next(iter(entry))) for entry in plan.get("metrics", ())]
        (stage.work / FINISHED).write_text(" ".join(file_md5(file) for file in metrics))


def _restore(plan: Mapping[str, Any], name: str) -> str:
    """Removes half-written outputs and restores those that dvc.lock records. The end of the message about it."""
    failures: list[str] = []
    restored: list[str] = []
    try:
        for path in map(Path, output_paths(plan)):
            remove(path)
        restored, failures = restore_stage(name, plan)
    except (OSError, ValueError, MemoryError) as error:
        failures = [" ".join(str(error).split()) or "out of memory"]
    if failures:
        return (
            f". Not all previous outputs could be restored: {failures[0]}; "
            f"try `tiny-lm restore {name}`, or rebuild them with `dvc repro`"
        )
    with contextlib.suppress(OSError):  # a file system that is read-only
        RUNNING.unlink(missing_ok=True)
    return ". The previous outputs are restored" if restored else ""


def _explain(error: BaseException) -> str:
    """One line about what a user or the machine did wrong; a bug in the code keeps its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C; run the same command to resume"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0
        by = next((name for number, name in SIGNALS.items() if code == 128 + number), f"exit code {error.code}")
        return f"stopped by {by}; run the same command to resume"
    text = " ".join(str(error).split())
    cause: BaseException | None = error
    while cause:  # a library may wrap one error in another
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full ({cause.filename or 'while writing'}); free some space and run again"
        if OUT_OF_MEMORY.search(repr(cause)):
            return f"out of memory: {text[:200]}; lower train.micro_batch_size or evaluate.batch_size, or free some"
        if "by peer" in repr(cause):  # in the words of gloo and NCCL
            return "another process of this run was killed; run the same command to resume"
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("tiny_lm"):
        return missing_package(error.name)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, OSError | ValueError):
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return "failed, see above"
    return text
