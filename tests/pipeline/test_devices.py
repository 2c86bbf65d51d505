"""Several processes train the same model as one: the same bytes, also after a kill; outputs are written once."""

import contextlib
import re
import shutil

import psutil

LONGER = "train.micro_batch_size=2 train.steps=60 train.checkpoint_every=5"


def worker(process, rank):
    """The process of this rank among those that DVC's has started, if it is there."""
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if each.environ().get("RANK") == rank:
                return each
    return None


def test_two_processes_train_the_same_model_as_one_also_if_one_is_killed(repository, bench):
    bench.preset(LONGER)
    outcome = bench.start("train")
    assert outcome["code"] == 0, outcome["said"]
    alone = bench.repository.hashes()

    repository.preset("runtime.launcher=torchrun", "runtime.devices=2")
    assert repository.ran(repository.dvc("repro", "train")) == []  # it changes nothing
    repository.preset(*LONGER.split())
    before = repository.hashes()
    shutil.rmtree(repository.path / ".work/train")
    process = repository.start("dvc", "repro", "train")
    repository.wait_for(lambda: list(repository.path.glob(".work/train/*/last.ckpt")) or process.poll() is not None)
    one = worker(process, "1")
    assert one, repository.end(process)
    one.kill()
    code, output = repository.end(process)
    assert code != 0
    cause = r"(process 1 was killed by SIGKILL|another process of this run was killed)"  # whoever is noticed first
    said = rf"train: {cause}; run the same command to resume\. The previous outputs are restored"
    assert re.search(said, output), output
    assert "Traceback" not in output
    repository.wait_for(repository.is_left_alone)
    assert repository.hashes() == before

    output = repository.dvc("repro", "train")
    assert output.count("train: resuming from ") == output.count("best validation loss") == 1
    together = repository.hashes()
    assert [path for path in alone if together[path] != alone[path] and "hardware" not in path] == []
