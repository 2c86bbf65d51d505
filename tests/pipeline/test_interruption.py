"""Training that was stopped, killed or disturbed gives the same bytes when it is run again."""

import os
import signal

import psutil

SLOWER = "train.steps=200 train.checkpoint_every=10 train.validate_every=40 train.log_every=40"


def states(repository):
    return {file: file.stat().st_mtime_ns for file in repository.path.glob(".work/train/*/last.ckpt")}


def start(repository, *command):
    """Starts a training and waits until it has saved its state. (DVC's process, those that it started)"""
    before = states(repository)
    process = repository.start(*command)

    def saved():
        assert process.poll() is None, repository.end(process)
        return states(repository).items() - before.items()

    repository.wait_for(saved, pause=0.005)
    return process, psutil.Process(process.pid).children(recursive=True)


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


def test_training_resumes_to_the_same_bytes_however_it_was_stopped(repository):
    repository.preset(*SLOWER.split())
    before = repository.hashes()

    # Ctrl-C reaches the whole process group.
    process, _ = start(repository, "dvc", "repro", "train")
    os.killpg(process.pid, signal.SIGINT)
    code, output = repository.end(process)
    assert code != 0
    assert "train: stopped by Ctrl-C; run the same command to resume. The previous outputs are restored" in output
    assert repository.hashes() == before

    # kill -9, or the power goes; a temporary run in its own folder resumes it.
    process, children = start(repository, "dvc", "exp", "run", "--temp", "train")
    for each in (*children, process):
        each.kill()
    _, output = repository.end(process)
    assert "train: resuming from " in output

    # Only `dvc` is killed: the stage that it started is still there, and no second one runs beside it.
    process, _ = start(repository, "dvc", "repro", "train")
    stage = stage_of(repository, process)
    stage.suspend()
    process.kill()
    process.wait()
    output = repository.fails("dvc", "repro", "train")
    said = f"train: a stage is already running in this workspace: wait for it, or stop it (process {stage.pid})"
    assert said in output, output
    stage.kill()
    repository.wait_for(lambda: ended(stage))

    # Params are edited meanwhile: DVC would record the new ones.
    process, _ = start(repository, "dvc", "repro", "train")
    repository.edit("params.yaml", "n_kv_heads: 2", "n_kv_heads: 4")
    code, output = repository.end(process)
    assert code != 0
    assert "train: changed during the run: model.n_kv_heads; undo that, or" in output
    assert "train: changed during the run: model.n_kv_heads." in output
    assert repository.hashes() == before

    repository.edit("params.yaml", "n_kv_heads: 4", "n_kv_heads: 2")
    # Only `dvc` is killed, after the stage's end and before it has recorded it.
    process = repository.start("dvc", "repro", "train")
    stage = stage_of(repository, process)
    psutil.Process(process.pid).suspend()
    repository.wait_for(lambda: ended(stage))
    assert list(repository.path.glob(".work/train/*/finished"))
    process.kill()
    process.wait()
    output = repository.dvc("repro", "train")
    assert "train: resuming from " in output
    assert "step 200/200" not in output  # nothing was left to train
    resumed = repository.lock()
    assert "resuming" not in repository.dvc("repro", "--force", "--single-item", "train")  # once more, and left alone
    assert repository.lock() == resumed
    assert len(list(repository.path.glob(".work/train/*/last.ckpt"))) == 1

    # `dvc` is killed when it has just opened dvc.lock to write: Git's index has the one before.
    (repository.path / "dvc.lock").write_bytes(b"")
    assert repository.CUT_SHORT.search(repository.fails("dvc", "repro", "train"))
    repository.git("checkout", "dvc.lock")
    assert repository.ran(repository.dvc("repro", "train")) == []
    assert repository.lock() == resumed
