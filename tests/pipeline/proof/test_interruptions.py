"""`dvc repro` and `dvc exp run --temp`, killed whole at any moment, DVC's own work included."""

import os
import signal
import time

import pytest

ALL = os.environ.get("TINY_LM_PROOF") == "1"


@pytest.mark.skipif(not ALL, reason="tests/pipeline/test_interruption.py is the sample")
@pytest.mark.parametrize("command", [("dvc", "repro", "train"), ("dvc", "exp", "run", "--temp", "train")], ids=" ".join)
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_pipeline_killed_at_any_moment_goes_on_to_the_same_bytes(command, kill, repository, dice, many, book):
    before = repository.hashes()
    repository.tiny_lm("preset", "train.seed=7")
    repository.git("commit", "-qam", "another seed")
    whole = repository.copy("whole")
    started = time.monotonic()
    whole.dvc("repro", "train")
    seconds = time.monotonic() - started
    for i in range(many(0, 10)):
        copy = repository.copy(f"killed {i}")
        process = copy.start(*command)
        time.sleep(dice.uniform(0, seconds))
        moment = "before its end" if process.poll() is None else "after its end"
        os.killpg(process.pid, kill)
        _, output = copy.end(process)
        if kill == signal.SIGINT and "The earlier outputs are back" in output and "--temp" not in command:
            assert copy.hashes() == before
        copy.dvc("repro", "train")
        assert copy.lock() == whole.lock(), output
        copy.dvc("repro", "train")
        assert "Data and pipelines are up to date." in copy.dvc("status", "train")
        book.note(f"{' '.join(command)}: {kill.name} at a random time", "the same bytes")
        print(i, moment)
