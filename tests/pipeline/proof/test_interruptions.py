"""`dvc repro` and `dvc exp run`, killed at any moment, DVC's own work included, and typed again."""

import contextlib
import os
import signal
import time

import psutil
import pytest
from tries import ALL

OUT_OF_MEMORY = "SIGKILL to the stage alone"  # as a system does it that has no memory left
COMMANDS = ["dvc repro", "dvc exp run", "dvc exp run --temp"]
KILLS = ["SIGKILL to all", "SIGTERM to all", "Ctrl-C", "SIGKILL to dvc alone", "SIGTERM to dvc alone", OUT_OF_MEMORY]
# Every stage has something to do; training is as long as all the rest, and so hit as often.
STALE = "dataset.seed=7 train.seed=7 train.steps=200 train.checkpoint_every=10 train.validate_every=50"


@pytest.fixture
def stale(repository):
    repository.preset(*STALE.split())
    repository.git("commit", "-qam", "other stories")
    return repository


def kill(process, how):
    if how == OUT_OF_MEMORY:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "tiny_lm.stages" in " ".join(child.cmdline()):
                    child.kill()
    elif how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    else:
        name, _, whom = how.partition(" to ")
        (os.killpg if whom == "all" else os.kill)(process.pid, signal.Signals[name])


def nothing_is_half_written(killed, before, whole):
    """Each file is of the earlier run or of the new one: stages that were done stay, the stopped one is restored."""
    assert killed.hashes().keys() == before.keys()
    for path, md5 in killed.hashes().items():
        assert "hardware" in path or md5 in (before[path], whole[path]), path


def run_again(repository, command, pause=1.0):
    """Types the command until no stage of the killed run is there any more. While it writes, not only our stages
    refuse: DVC itself stumbles where it deletes or stashes what is written at that moment. Where DVC was killed while
    it wrote dvc.lock, Git brings that back first, as docs/reproducibility.md says.
    """
    mended = False
    while True:
        busy = not repository.is_left_alone()
        process = repository.start(*command)
        code, output = repository.end(process)
        assert "Traceback" not in output, output
        if code == 0:
            return output
        if repository.CUT_SHORT.search(output):
            assert not mended, output
            repository.git("checkout", "dvc.lock")
            mended = True
        else:
            assert busy, output
            time.sleep(pause)


@pytest.mark.skipif(not ALL, reason="tests/pipeline/test_interruption.py is the sample")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipeline_killed_at_any_moment_resumes_to_the_same_bytes(command, stale, dice, many, book):
    words, before = command.split(), stale.hashes()
    whole = stale.copy("whole")
    started = time.monotonic()
    whole.run(*words)
    seconds = time.monotonic() - started
    if "--temp" in words:
        whole.dvc("repro")
    kills = dice.sample(KILLS, len(KILLS))
    for i in range(many(0, 18)):
        how, moment = kills[i % len(kills)], dice.uniform(0, seconds)
        killed = stale.copy(f"killed {i}")
        process = killed.start(*words)
        time.sleep(moment)
        done = process.poll() is not None
        if not done:
            kill(process, how)
        _, output = killed.end(process)
        print(f"{command}, {how} after {moment:.1f} s{', done by then' if done else ''}\n{output}")  # if it fails
        if how in ("SIGTERM to all", "Ctrl-C"):
            killed.wait_for(killed.is_left_alone)
            if "The previous outputs are restored" in killed.said() and "--temp" not in words:
                nothing_is_half_written(killed, before, whole.hashes())
        print(run_again(killed, words))
        if "--temp" in words:  # what it made is in the cache: the workspace takes it from there
            assert killed.ran(killed.dvc("repro")) == []
        assert killed.lock() == whole.lock()
        assert "Data and pipelines are up to date." in killed.dvc("status", "dvc.yaml")
        assert killed.ran(killed.dvc("repro")) == []
        book.note(f"{command}: {how} at a random time", "finished by then" if done else "the same bytes")
