"""Two devices train the same model as one: the same sequences in each step, and outputs are written once."""


def test_two_processes_train_the_same_model_as_one(repository):
    repository.tiny_lm("preset", "train.micro_batch_size=2", "train.precision=32")
    repository.dvc("repro", "train")
    alone = repository.hashes()

    repository.tiny_lm("preset", "train.devices=2")
    process = repository.start("dvc", "repro", "train")
    repository.wait_for(lambda: list(repository.path.glob(".work/train/*/rank1")) or process.poll() is not None)
    assert process.poll() is None
    code, output = repository.end(process)
    assert code == 0, output
    # The gradient is that of the same two micro-batches, added on two devices instead of one after the other.
    together = repository.hashes()
    weights = "models/checkpoint/model.safetensors"
    assert together[weights] == alone[weights]
    for name in ("train_loss", "val_loss", "lr", "tokens"):
        course = f"results/train/plots/metrics/{name}.tsv"
        assert together[course] == alone[course]
    assert output.count("best validation loss") == 1
    assert len(list(repository.path.glob(".work/train/*/last.ckpt"))) == 1  # the finished state
