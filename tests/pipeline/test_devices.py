"""Two devices train the same model as one: the same bytes, and outputs are written once."""

import shutil


def test_two_processes_train_the_same_model_as_one(repository):
    repository.tiny_lm("preset", "train.micro_batch_size=2", "train.precision=32")
    repository.dvc("repro", "train")
    alone = repository.hashes()

    repository.tiny_lm("preset", "runtime.devices=2")
    assert repository.ran(repository.dvc("repro", "train")) == []  # it changes nothing
    shutil.rmtree(repository.path / ".work/train")
    process = repository.start("dvc", "repro", "--force", "train")
    repository.wait_for(lambda: list(repository.path.glob(".work/train/*/rank1")) or process.poll() is not None)
    assert process.poll() is None
    code, output = repository.end(process)
    assert code == 0, output
    together = repository.hashes()
    assert [path for path in alone if together[path] != alone[path] and "hardware" not in path] == []
    assert output.count("best validation loss") == 1
    assert len(list(repository.path.glob(".work/train/*/last.ckpt"))) == 1  # the finished state
