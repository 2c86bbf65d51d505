"""`tiny-lm restore` puts back what dvc.lock records: from DVC's cache, or where it was not pulled, from the commit."""

import json
import os
import shutil

from tiny_lm.shards.verify import verify_shards

METRICS = "results/evaluate/metrics.json"


def test_metrics_of_a_run_that_nobody_committed_come_back_and_wrong_ones_go(repository):
    original = repository.hashes()
    repository.tiny_lm("preset", "train.seed=2")
    repository.dvc("repro")
    variant = repository.hashes()
    assert variant[METRICS] != original[METRICS]

    repository.git("checkout", "-q", "HEAD", "--", "results")  # the metrics of another run
    shutil.rmtree(repository.path / "models/export")
    assert repository.hashes() != variant
    shown = repository.tiny_lm("restore", "evaluate")
    assert METRICS in shown
    assert "models/export" not in shown
    assert repository.hashes()[METRICS] == variant[METRICS]
    repository.tiny_lm("restore")
    assert repository.hashes() == variant
    assert "Data and pipelines are up to date." in repository.dvc("status")
    assert "dvc.yaml has no stage 'evaluates'" in repository.fails(*repository.TINY_LM, "restore", "evaluates")

    lock = repository.path / "dvc.lock"  # a stage that there is no more
    lock.write_text(lock.read_text().replace("\n  tokenizer:\n", "\n  gone:\n    cmd: x\n    outs: []\n  tokenizer:\n"))
    assert METRICS in repository.tiny_lm("restore")


def test_without_a_cache_the_metrics_of_the_commit_are_those_of_its_run(repository):
    clone = repository.clone("clone")
    (clone.path / METRICS).unlink()
    shutil.rmtree(clone.path / "results/evaluate/plots")
    assert "`dvc pull` may fetch what is missing" in clone.fails(
        *clone.TINY_LM, "restore", "evaluate"
    )  # the outputs that Git does not have
    assert clone.git("status", "--short") == ""
    clone.dvc("remote", "add", "--local", "--default", "origin", str(repository.path / ".dvc/cache"))
    clone.dvc("pull")
    shutil.rmtree(clone.path / ".dvc/cache/files/md5")
    clone.dvc("fetch")
    clone.tiny_lm("restore", "evaluate")
    assert clone.git("status", "--short") == ""


def test_bytes_that_changed_behind_dvcs_back_are_found_before_a_stage_starts(repository):
    """DVC knows a file by its size and time: where these stay, as when a disk decays, it sees nothing."""
    assert repository.is_clean()  # and DVC has seen every file
    path = repository.path / "data/shards/train/00000.bin"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:  # the same inode, as DVC's memory of it has
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "data/shards" not in repository.dvc("status")
    output = repository.fails("dvc", "repro", "--force", "--single-item", "train")
    assert "train: data/shards/train/00000.bin: not what dvc.lock records; `dvc checkout data/shards`" in output
    assert "The earlier outputs are back" in output
    assert "data/shards/train/00000.bin: not what" in repository.fails(*repository.TINY_LM, "check")


def test_shards_of_another_tokenizer_are_found_before_training_starts(repository):
    """The folder is sound in itself: only dvc.lock knows that it is not the one that was made here."""
    shards = repository.path / "data/shards"
    metadata = json.loads((shards / "metadata.json").read_bytes())
    (shards / "metadata.json").unlink()  # which may be a link to DVC's cache
    (shards / "metadata.json").write_text(json.dumps(metadata | {"tokenizer": "0" * 64}))
    assert verify_shards(shards).tokenizer == "0" * 64
    output = repository.fails("env", "PYTHONPATH=src", "python", "-m", "tiny_lm.stages", "train")
    assert "train: data/shards/metadata.json: not what dvc.lock records; `dvc checkout data/shards`" in output
    assert "Stage 'shards' is cached" in repository.dvc("repro", "train")  # DVC brings the recorded ones back
    assert verify_shards(shards).tokenizer == metadata["tokenizer"]


def test_a_refused_setting_in_a_clone_without_a_cache_loses_nothing_that_git_has(repository):
    clone = repository.clone("clone")
    output = clone.fails("dvc", "exp", "run", "-S", "model.n_kv_heads=3")
    assert (
        "must be a divisor of n_heads = 4. Not all earlier outputs are back: `tiny-lm restore train` brings" in output
    )
    clone.git("checkout", "-q", "params.yaml")
    assert clone.git("status", "--short") == ""  # metrics and plots are those of the commit

    shutil.rmtree(clone.path / "results/train")
    (clone.path / METRICS).unlink()
    shutil.rmtree(clone.path / "data/corpus")
    output = clone.fails(*clone.TINY_LM, "restore")
    assert clone.git("status", "--short") == ""  # what one stage lacks keeps nothing of the next from it
    assert "restored data/corpus\n" in output
    last = output.splitlines()[-1]
    for lacking in ("models/checkpoint", "results/evaluate/samples.txt", "models/export"):
        assert f"`dvc checkout --force {lacking}` failed: ERROR: Checkout failed for following targets" in last
    assert last.endswith("; `dvc pull` may fetch what is missing, `dvc repro` builds it")

    output = clone.dvc("repro")  # as it says
    assert clone.ran(output) == ["train", "evaluate", "export"]
    assert output.count("train: train did not end well, and outputs of it are missing; unless they are made again") == 1
    assert clone.lock() == repository.lock()
