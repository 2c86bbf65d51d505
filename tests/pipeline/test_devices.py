"""Several processes train the same model as one: the same bytes, also after a kill; outputs are written once."""

import re
import shutil

import psutil


def test_two_processes_train_the_same_model_as_one_also_if_one_is_killed(repository):
    repository.preset("train.micro_batch_size=2", "train.steps=60", "train.checkpoint_every=5")
    repository.dvc("repro", "train")
    alone = repository.hashes()

    repository.preset("runtime.launcher=torchrun", "runtime.devices=2")
    assert repository.ran(repository.dvc("repro", "train")) == []  # it changes nothing
    shutil.rmtree(repository.path / ".work/train")
    process = repository.start("dvc", "repro", "--force", "--single-item", "train")
    repository.wait_for(lambda: list(repository.path.glob(".work/train/*/last.ckpt")) or process.poll() is not None)
    started = psutil.Process(process.pid).children(recursive=True)
    next(each for each in started if each.environ().get("RANK") == "1").kill()
    code, output = repository.end(process)
    assert code != 0
    cause = r"(process 1 was killed by SIGKILL|another process of this run was killed)"  # whoever is noticed first
    said = rf"train: {cause}; run the same command to resume\. The previous outputs are restored"
    assert re.search(said, output), output
    assert "Traceback" not in output
    assert repository.is_left_alone()
    assert repository.hashes() == alone

    output = repository.dvc("repro", "--force", "--single-item", "train")
    assert output.count("train: resuming from ") == output.count("best validation loss") == 1
    together = repository.hashes()
    assert [path for path in alone if together[path] != alone[path] and "hardware" not in path] == []
    hardware = [path for path in alone if "hardware/plots" in path]
    assert any(together[path] != alone[path] for path in hardware)  # so it has trained
