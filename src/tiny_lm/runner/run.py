"""Runs a stage: one at a time, on inputs that match dvc.lock.

DVC deletes the outputs of a stage before it starts. If the stage fails, half-written outputs are removed and the
previous ones restored. A user's mistake ends in one line and exit code 1, never in a traceback.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny_lm.runner.code import require_this_tree
from tiny_lm.runner.dvc_lock import file_md5
from tiny_lm.runner.git import require_full_history
from tiny_lm.runner.gpus import claim_gpu
from tiny_lm.runner.locks import WORKSPACE, Locked, hold
from tiny_lm.runner.messages import SIGNALS, explain, say
from tiny_lm.runner.pipelines import read_plans
from tiny_lm.runner.restore import RUNNING, output_paths, remove, restore_stages
from tiny_lm.runner.stage import FINISHED, ROOT, WORKER, Stage
from tiny_lm.runner.worker import run_worker

Load = Callable[[str], Callable[[Stage], None]]  # imports a stage and its libraries, and returns its main function


def run_stage(name: str, load: Load) -> None:
    """Runs a stage. If it fails, ends the process with exit code 1 and a line that says why and what to do."""
    plan = read_plans()[name]
    if WORKER:  # the launcher does the rest
        return run_worker(Stage(name, plan), load)
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
        _gpu = claim_gpu() if stage.may_use_one_gpu() else None  # for as long as this function runs
        main = _load_while_checking(stage, load)
        _forget_recorded(stage)
        main(stage)
        _finish(stage, plan)
        RUNNING.unlink(missing_ok=True)
    except BaseException as error:
        for number in SIGNALS:  # a second Ctrl-C does not interrupt the cleanup
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            Path(".work/error.txt").write_text(traceback.format_exc(), "utf-8", "replace")
        if lock or isinstance(error, OSError):  # without file locks, no stage is running
            end = _restore(plan, name)
        else:  # another stage may be writing these outputs
            end = f"; afterwards, `tiny-lm restore {name}` restores the previous outputs"
        say(f"{name}: {explain(error)}{end}")
        sys.exit(1)


def _load_while_checking(stage: Stage, load: Load) -> Callable[[Stage], None]:
    """Loads the stage while another process checks its inputs."""
    command = [sys.executable, "-m", "tiny_lm.runner.inputs", *map(str, stage.data)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as check:
        try:
            main = load(stage.name)
            errors = check.communicate()[1]
        finally:
            check.kill()
    if check.returncode:
        lines = errors.splitlines() or [f"the check of the inputs ended with exit code {check.returncode}"]
        raise ValueError(lines[-1])  # after a crash, the error without its traceback
    return main


def _forget_recorded(stage: Stage) -> None:
    """Deletes resume checkpoints of finished runs that DVC has recorded, so that `dvc repro --force` runs them again.
    One that neither dvc.lock nor the run cache contains stays: DVC was killed, and the work need not be repeated.
    """
    records = (Path("dvc.lock"), *Path(ROOT, ".dvc/cache/runs").glob("*/*/*"))
    texts = [path.read_text() for path in records if path.is_file()]
    for finished in Path(ROOT, ".work", stage.name).glob(f"*/{FINISHED}"):
        metrics = finished.read_text().split()  # unique: they contain the time that the run took
        if any(all(md5 in text for md5 in metrics) for text in texts):
            with contextlib.suppress(Locked):  # it is in use in another workspace
                _lock = hold(finished.parent.with_suffix(".lock"), "")
                shutil.rmtree(finished.parent)


def _finish(stage: Stage, plan: Mapping[str, Any]) -> None:
    """Fails if anything changed during the run, because DVC records what it finds at the end."""
    if changed := stage.changes():
        raise ValueError(
            f"changed during the run: {', '.join(changed)}. The results belong to the earlier state and are not "
            "recorded. Undo the change and run again to finish this run, or run again with the new state"
        )
    if stage.work:  # stays, because DVC may be killed before it has recorded the run
        metrics = map(Path, output_paths(plan, ("metrics",)))
        (stage.work / FINISHED).write_text(" ".join(map(file_md5, metrics)))


def _restore(plan: Mapping[str, Any], name: str) -> str:
    """Removes half-written outputs and restores those in dvc.lock. Returns the end of the message."""
    try:
        for path in output_paths(plan):
            remove(Path(path))
        restored, failures = restore_stages({name: plan})
    except (OSError, ValueError, MemoryError) as error:
        restored, failures = [], [str(error) or "out of memory"]
    if failures:
        return (
            f". Not all previous outputs could be restored: {failures[0]}; "
            f"try `tiny-lm restore {name}`, or rebuild them with `dvc repro`"
        )
    with contextlib.suppress(OSError):  # a read-only file system
        RUNNING.unlink(missing_ok=True)
    return ". The previous outputs are restored" if restored else ""
