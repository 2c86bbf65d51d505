"""Training that was stopped, killed or disturbed gives the same bytes when it is run again."""

import os
import signal

import psutil

SLOWER = "train.steps=200 train.checkpoint_every=10 train.validate_every=40 train.log_every=40"


def states(repository):
    return {file: file.stat().st_mtime_ns for file in repository.path.glob(".work/train/*/last.ckpt")}


def start(repository, *command):
    """Starts a training, and suspends its stage once that has saved its state. (DVC's process, the stage's)"""
    before = states(repository)
    process = repository.start(*command)

    def saved():
        assert process.poll() is None, repository.end(process)
        return states(repository).items() - before.items()

    repository.wait_for(saved, pause=0.005)
    stage = stage_of(repository, process)
    stage.suspend()
    return process, stage


def stage_of(repository, process):
    """The process that holds the workspace: DVC's may have others below it, a shell or the stage's own tools."""

    def holders():
        holder = (repository.path / ".work/lock").read_text()
        return [each for each in psutil.Process(process.pid).children(recursive=True) if str(each.pid) == holder]

    return repository.wait_for(holders)[0]


def ended(stage):
    """Where a shell started the stage (`sh` stays between, bash becomes the stage), it has buried it, too."""
    try:
        return stage.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_training_resumes_to_the_same_bytes_however_it_was_stopped(repository, bench):
    bench.preset(SLOWER)
    outcome = bench.start("train")
    assert outcome["code"] == 0, outcome["said"]
    repository.preset(*SLOWER.split())
    before = repository.hashes()

    # Ctrl-C reaches the whole process group.
    process, stage = start(repository, "dvc", "repro", "train")
    os.killpg(process.pid, signal.SIGINT)
    stage.resume()
    code, output = repository.end(process)
    assert code != 0
    assert "train: stopped by Ctrl-C; run the same command to resume. The previous outputs are restored" in output
    assert repository.hashes() == before

    # Only `dvc` is killed: the stage that it started is still there, and no second one runs beside it.
    process, stage = start(repository, "dvc", "repro", "train")
    process.kill()
    _, output = repository.end(process)
    assert "train: resuming from " in output
    output = repository.fails("dvc", "repro", "train")
    said = f"train: a stage is already running in this workspace: wait for it, or stop it (process {stage.pid})"
    assert said in output, output
    stage.kill()  # kill -9, or the power goes
    repository.wait_for(lambda: ended(stage))

    # Only `dvc` is killed, after the stage's end and before it has recorded it.
    process = repository.start("dvc", "repro", "train")
    stage = stage_of(repository, process)
    psutil.Process(process.pid).suspend()
    repository.wait_for(lambda: ended(stage))
    assert list(repository.path.glob(".work/train/*/finished"))
    process.kill()
    _, output = repository.end(process)
    assert "train: resuming from " in output

    # A temporary run in its own folder resumes it.
    output = repository.dvc("exp", "run", "--temp", "train")
    assert "train: resuming from " in output
    assert "step 200/200" not in output  # nothing was left to train
    output = repository.dvc("repro", "train")
    assert repository.ran(output) == []  # DVC has its outputs in the cache
    resumed = repository.lock()
    alone = {path: md5 for path, md5 in bench.repository.hashes().items() if "hardware" not in path}
    assert alone.items() <= repository.hashes().items()
    assert len(list(repository.path.glob(".work/train/*/last.ckpt"))) == 1

    # `dvc` is killed when it has just opened dvc.lock to write: Git's index has the one before.
    (repository.path / "dvc.lock").write_bytes(b"")
    assert repository.CUT_SHORT.search(repository.fails("dvc", "repro", "train"))
    repository.git("checkout", "dvc.lock")
    assert repository.ran(repository.dvc("repro", "train")) == []
    assert repository.lock() == resumed
