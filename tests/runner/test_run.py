import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tiny_lm.io.params import read_yaml
from tiny_lm.runner import stage as stage_module
from tiny_lm.runner.stage import Stage

ROOT = Path(__file__).parents[2]
STAGE = """
import sys
from pathlib import Path
from tiny_lm.runner.run import run_stage

def main(stage):
    Path("out").mkdir(exist_ok=True)
    {body}
    Path("out/file").write_text("made")

def load(name):
    Path("loaded").touch()
    return main

run_stage("work", load)
"""


def work():
    return Stage("work", read_yaml(Path("dvc.yaml"))["stages"]["work"])


def run(body="pass", env=None):
    script = Path("stage.py")
    script.write_text(textwrap.dedent(STAGE).replace("{body}", body))
    return subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": "src", **(env or {})},
        capture_output=True, text=True,
    )  # fmt: skip


def test_a_successful_stage_exits_0_and_prints_nothing(workspace):
    done = run()
    assert (done.returncode, done.stderr, Path("out/file").read_text()) == (0, "", "made")


def test_a_user_mistake_ends_in_one_line_exit_1_and_no_half_written_output(workspace):
    done = run('raise ValueError("alpha.x = 1: must be 2")')
    assert (done.returncode, done.stderr) == (1, "work: alpha.x = 1: must be 2\n")
    assert not Path("out").exists()
    assert "Traceback" in Path(".work/error.txt").read_text()


def test_a_bug_keeps_its_traceback(workspace):
    done = run("assert 1 == 2")
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ('p = Path("params.yaml"); p.write_text(p.read_text().replace("x: 1", "x: 7"))', "alpha.x"),
        ('Path("data/a.txt").write_text("edited")', "data/a.txt"),
        ('Path("data/b.txt").write_text("new")', "data/b.txt"),
        ('Path("data/a.txt").unlink()', "data/a.txt"),
    ],
)
def test_a_change_during_the_run_fails_the_stage_and_is_named(workspace, edit, named):
    done = run(edit)
    assert done.returncode == 1
    assert f"changed during the run: {named}." in done.stderr
    assert not Path("out").exists()


def test_code_that_changes_during_the_run_fails_the_stage(workspace):
    code = workspace / "src"
    code.unlink()
    subprocess.run(["cp", "-r", ROOT / "src", code], check=True)
    done = run('p = Path("src/tiny_lm/io/params.py"); p.write_text(p.read_text() + "# edited")')
    assert "changed during the run: src/tiny_lm/io/params.py." in done.stderr
    done = run("pass")  # what was edited before a stage starts is simply its code
    assert done.returncode == 0, done.stderr


def test_sections_that_the_stage_does_not_list_may_change_during_the_run(workspace):
    done = run('p = Path("params.yaml"); p.write_text(p.read_text().replace("y: 2", "y: 3").replace("x: 1", "x: 1.0"))')
    assert done.returncode == 0, done.stderr


def test_a_second_stage_in_the_workspace_is_refused_and_leaves_the_outputs_alone(workspace):
    body = 'print("up", flush=True); sys.stdin.read(); Path("out/file").write_text("first")'
    Path("stage.py").write_text(textwrap.dedent(STAGE).replace("{body}", body))
    env = {**os.environ, "PYTHONPATH": "src"}
    first = subprocess.Popen([sys.executable, "stage.py"], env=env, stdin=-1, stdout=-1, text=True)
    assert first.stdout.readline() == "up\n"
    second = run()
    assert second.returncode == 1
    said = f"work: a stage is already running in this workspace: wait for it, or stop it (process {first.pid})"
    assert said in second.stderr
    assert Path("out").is_dir()
    first.communicate("")
    assert first.returncode == 0


def test_code_of_another_tree_is_refused(workspace):
    Path("src").unlink()
    Path("src/tiny_lm").mkdir(parents=True)
    done = run(env={"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 1
    assert "not this folder's src/tiny_lm" in done.stderr


KEEPS = """
    folder = stage.work_folder()
    print("continues" if (folder / "state").exists() else "afresh")
    (folder / "state").write_text("s")
    import time; Path("metrics.json").write_text(str(time.time_ns()))
"""


def states():
    return sorted(path.parent.name for path in Path(".work/work").glob("*/state"))


def record(lock=Path("dvc.lock")):
    """Records the metrics, as DVC does at the end."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(f"metrics.json: {hashlib.md5(Path('metrics.json').read_bytes()).hexdigest()}")


@pytest.mark.parametrize("end", ["raise ValueError('no')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_run_that_failed_or_was_killed_resumes(workspace, end):
    assert run(KEEPS + "    " + end).returncode != 0
    assert run(KEEPS).stdout == "continues\n"


@pytest.mark.parametrize("entry", ["{metrics.json: {cache: false}}", "metrics.json"])
def test_a_finished_run_that_dvc_did_not_record_is_not_repeated(workspace, entry):
    plan = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(plan.replace("{metrics.json: {cache: false}}", entry))
    assert run(KEEPS).stdout == "afresh\n"
    assert run(KEEPS).stdout == "continues\n"  # DVC died while it hashed


@pytest.mark.parametrize("place", ["dvc.lock", ".dvc/cache/runs/ab/abc/def"])
def test_a_finished_run_that_dvc_recorded_starts_from_scratch_when_forced(workspace, place):
    run(KEEPS)
    record(Path(place))
    assert run(KEEPS).stdout == "afresh\n"
    assert run(KEEPS).stdout == "continues\n"  # the new run is not the one that is recorded


def set_x(value):
    """Another value of the stage's param is another run."""
    Path("params.yaml").write_text(re.sub(r"x: \d+", f"x: {value}", Path("params.yaml").read_text()))


def test_a_run_that_was_stopped_resumes_after_another_run_which_leaves_nothing(workspace):
    run(KEEPS + "    raise ValueError('no')")
    first = states()
    set_x(2)
    assert run(KEEPS).stdout == "afresh\n"
    assert len(states()) == 2
    set_x(1)
    assert run(KEEPS).stdout == "continues\n"
    assert states() == first
    assert len(list(Path(".work/work").iterdir())) == 2  # it and its lock


def test_few_resume_checkpoints_are_kept_the_latest(workspace, monkeypatch):
    monkeypatch.setattr(stage_module, "KEPT_RUNS", 2)
    for value in range(1, 6):
        set_x(value)
        run(KEEPS + "    raise ValueError('no')")
        folder = max(Path(".work/work").glob("*/state"), key=lambda state: state.stat().st_mtime_ns).parent
        os.utime(folder, (value, value))
    set_x(6)
    work().work_folder()
    times = sorted(int(state.parent.stat().st_mtime) for state in Path(".work/work").glob("*/state"))
    assert times == [4, 5]
    assert len(list(Path(".work/work").glob("*.lock"))) == 3


def test_a_run_that_was_stopped_before_it_saved_anything_leaves_nothing(workspace):
    run("stage.work_folder(); raise ValueError('no')")
    set_x(2)
    run(KEEPS)
    assert len(list(Path(".work/work").iterdir())) == 2


def test_logs_next_to_resume_checkpoints_stay(workspace):
    """The logs of TensorBoard and W&B, a folder for each run."""
    Path(".work/work/tensorboard/first").mkdir(parents=True)
    run(KEEPS)
    set_x(2)
    run(KEEPS)
    assert Path(".work/work/tensorboard/first").is_dir()
    assert len(states()) == 1


def test_the_resume_checkpoint_of_a_run_in_another_workspace_stays(workspace):
    stage = work()
    running = stage.work_folder()
    for name in ("state", "finished"):
        (running / name).write_text("s")
    set_x(2)
    run(KEEPS)
    assert running.name in states()
    assert len(states()) == 2
    del stage._work_lock  # that run ends
    run(KEEPS)
    assert len(states()) == 1


def test_the_stage_after_a_killed_one_prints_once_how_to_restore_outputs(workspace):
    said = (
        "work: the last run of work did not finish, so its outputs are missing; `tiny-lm restore work` restores them\n"
    )
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    done = run()
    assert (done.returncode, done.stderr) == (0, said)
    assert run().stderr == ""
    assert run('raise ValueError("no")').stderr == "work: no\n"  # which cleans up
    assert run().stderr == ""
    run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run(
        [sys.executable, "-c", "from tiny_lm.cli import main; main()", "restore"],
        env={**os.environ, "PYTHONPATH": "src"}, check=True,
    )  # fmt: skip
    assert run().stderr == ""  # the outputs are restored


def test_an_unreadable_params_file_is_one_line(workspace):
    Path("params.yaml").write_text("alpha: [")
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("work: params.yaml: not readable as YAML")
    assert done.stderr.count("\n") == 1


def test_data_that_differs_from_dvc_lock_stops_the_stage_before_it_starts(workspace):
    lock = {"stages": {"first": {"outs": [{"path": "data", "md5": "0" * 32 + ".dir"}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    done = run('Path("began").touch()')
    assert done.returncode == 1
    assert done.stderr.startswith("work: data: not what dvc.lock records; ")
    assert "`dvc repro first` rebuilds it" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("began").exists()
    lock["stages"]["first"]["outs"] = [{"path": "elsewhere", "md5": "0" * 32}]  # which this stage does not read
    Path("dvc.lock").write_text(json.dumps(lock))
    assert run().returncode == 0


@pytest.fixture
def checking(workspace):
    """A stage whose libraries are loaded while the check of its data still waits for a pipe."""
    shutil.rmtree("data")
    os.mkfifo("data")
    lock = {"stages": {"first": {"outs": [{"path": "data", "md5": hashlib.md5(b"right").hexdigest()}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    Path("stage.py").write_text(textwrap.dedent(STAGE).replace("{body}", 'Path("began").touch()'))
    with subprocess.Popen(
        [sys.executable, "stage.py"], env=os.environ | {"PYTHONPATH": "src"}, stderr=subprocess.PIPE, text=True
    ) as stage:
        pipe = os.open("data", os.O_WRONLY)  # returns once the check has opened it
        while not Path("loaded").exists():
            assert stage.poll() is None
            time.sleep(0.01)
        assert not Path("began").exists()
        yield stage, pipe
        stage.kill()


@pytest.mark.parametrize(("content", "code"), [(b"right", 0), (b"wrong", 1)])
def test_data_is_checked_while_libraries_are_imported_and_before_the_stage_begins(checking, content, code):
    stage, pipe = checking
    os.write(pipe, content)
    os.close(pipe)
    assert stage.wait(60) == code, stage.stderr.read()
    assert Path("began").exists() == (code == 0)


NOHUP = pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="pytest runs with nohup")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=NOHUP)])
def test_the_check_ends_with_a_stage_that_is_stopped(checking, number):
    stage, pipe = checking
    stage.send_signal(number)
    assert stage.wait(60) == 1
    assert signal.Signals(number).name in stage.stderr.read()
    assert not Path("began").exists()
    with pytest.raises(BrokenPipeError):
        os.write(pipe, b"nobody reads it any more")
    os.close(pipe)


LESS = "; lower train.micro_batch_size or evaluate.batch_size, or free some"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ('ValueError("caf\\udce9.txt: no text")', "work: caf\\udce9.txt: no text\n"),
        ("MemoryError()", f"work: out of memory: {LESS}\n"),
        (
            'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 4 bytes")',
            f"work: out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes{LESS}\n",
        ),
        ('RuntimeError("CUDA error: out of memory")', f"work: out of memory: CUDA error: out of memory{LESS}\n"),
        (
            'RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")',
            f"work: out of memory: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle){LESS}\n",
        ),
    ],
)
def test_odd_names_and_out_of_memory_end_in_one_line(workspace, error, line):
    done = run(f"raise {error}")
    assert (done.returncode, done.stderr) == (1, line)
    assert "Traceback" in Path(".work/error.txt").read_text()
    assert not Path("out").exists()


KILL = "import os, signal; os.kill(os.getpid(), signal.{}); import time; time.sleep(0.1)"


@pytest.mark.parametrize(
    ("name", "by"), [("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "a closed terminal (SIGHUP)")]
)
def test_a_signal_stops_a_stage_like_ctrl_c(workspace, name, by):
    done = run(KILL.format(name))
    assert (done.returncode, done.stderr) == (1, f"work: stopped by {by}; run the same command to resume\n")
    assert not Path("out").exists()


def test_sighup_stays_ignored_under_nohup(workspace):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which child processes inherit
    try:
        assert run(KILL.format("SIGHUP")).returncode == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("end", ["assert 1 == 2", 'raise ValueError("no")', "pass"])
def test_a_closed_terminal_costs_no_run_and_no_outputs(workspace, end):
    """Writing to it fails with EIO."""
    body = f'print(1, flush=True); sys.stdin.read(); stage.say("text"); {end}'
    Path("stage.py").write_text(textwrap.dedent(STAGE).replace("{body}", body))
    master, slave = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"} | {"PYTHONPATH": "src"}
    stage = subprocess.Popen([sys.executable, "stage.py"], env=env, stdin=-1, stdout=-1, stderr=slave)
    os.close(slave)
    stage.stdout.readline()
    os.close(master)
    stage.communicate()
    assert stage.returncode == (end != "pass")
    assert Path("out").exists() == (end == "pass")


def test_a_missing_package_is_one_line(workspace):
    done = run("import no_such_package")
    assert done.returncode == 1
    assert done.stderr.startswith(f"work: {sys.executable} does not have the package no_such_package; activate")
    assert done.stderr.count("\n") == 1


NO_LOCKS = """
import errno, fcntl, os

def fail(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = fail
"""


def test_without_file_locks_a_stage_stops_and_restores_its_outputs(workspace):
    Path("out").mkdir()
    Path("stage.py").write_text(NO_LOCKS + textwrap.dedent(STAGE).replace("{body}", "pass"))
    env = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run([sys.executable, "stage.py"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("work: .work/lock: no file locks (No locks available); move")
    assert not Path("out").exists()  # removed, and none recorded that could be restored


def test_a_temporary_experiment_of_a_shallow_clone_does_not_start(workspace, monkeypatch):
    for command in ("init -q", "-c user.name=x -c user.email=x@x commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], check=True)
    Path(".git/shallow").write_text(subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout)
    assert run().returncode == 0  # not temporary
    temporary = Path(".dvc/tmp/exps/x")
    temporary.mkdir(parents=True)
    for name in ("src", "data", "params.yaml", "dvc.yaml"):
        (temporary / name).symlink_to(workspace / name)
    monkeypatch.chdir(temporary)
    done = run('Path("began").touch()', env={"DVC_ROOT": str(workspace)})
    assert done.returncode == 1
    assert "run `git fetch --unshallow`" in done.stderr
    assert not Path("began").exists()
