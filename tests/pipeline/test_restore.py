"""`tiny-lm restore` restores what dvc.lock records: from DVC's cache, or from the commit if it was not pulled."""

import hashlib
import json
import os
import shutil

import psutil
import pytest

from tiny_lm.runner.verify import verify_shards

METRICS = "results/evaluate/metrics.json"
CHANGES = {  # the last stage first, so that all find the inputs that dvc.lock records
    "export": "export.dtype=bfloat16", "evaluate": "evaluate.seed=7", "train": "train.seed=7",
    "shards": "shards.shard_tokens=5000", "tokenizer": "tokenizer.pattern=gpt2", "corpus": "dataset.seed=7",
}  # fmt: skip


def objects(repository):
    """What DVC's cache has, by name."""
    files = [file for file in (repository.path / ".dvc/cache/files").rglob("*") if file.is_file()]
    return {file: hashlib.md5(file.read_bytes()).hexdigest() for file in files}


def relink(repository):
    """Makes the outputs links to DVC's cache, as DVC leaves them."""
    repository.dvc("checkout", "--relink")
    assert (repository.path / "models/checkpoint/params.yaml").stat().st_nlink == 2
    return repository


@pytest.fixture
def linked(repository):
    return relink(repository)


def append(path):
    """Behind DVC's back, through a link into its cache."""
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"\n")


def test_metrics_of_an_uncommitted_run_are_restored_and_wrong_ones_replaced(repository):
    original = repository.hashes()
    repository.preset("evaluate.precision=bf16-mixed")
    assert repository.ran(repository.dvc("repro")) == ["evaluate", "export"]
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
    assert "Data and pipelines are up to date." in repository.dvc("status", "dvc.yaml")
    assert "dvc.yaml has no stage 'evaluates'" in repository.fails(*repository.TINY_LM, "restore", "evaluates")

    lock = repository.path / "dvc.lock"  # a stage that there is no more
    lock.write_text(lock.read_text().replace("\n  tokenizer:\n", "\n  gone:\n    cmd: x\n    outs: []\n  tokenizer:\n"))
    assert METRICS in repository.tiny_lm("restore")


def test_without_a_cache_metrics_are_restored_from_the_commit(repository):
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
    """DVC identifies a file by its size and time, so it does not see bytes that flip on a failing disk."""
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
    assert "train: data/shards/train/00000.bin: not what dvc.lock records; `tiny-lm restore shards`" in output
    assert "The previous outputs are restored" in output
    assert "data/shards/train/00000.bin: not what" in repository.fails(*repository.TINY_LM, "check")


def test_shards_of_another_tokenizer_are_found_before_training_starts(repository):
    """The folder matches its own metadata; only dvc.lock shows that it is another one."""
    shards = repository.path / "data/shards"
    metadata = json.loads((shards / "metadata.json").read_bytes())
    (shards / "metadata.json").unlink()  # which may be a link to DVC's cache
    (shards / "metadata.json").write_text(json.dumps(metadata | {"tokenizer": "0" * 64}))
    assert verify_shards(shards).tokenizer == "0" * 64
    output = repository.fails("env", "PYTHONPATH=src", "python", "-m", "tiny_lm.stages", "train")
    assert "train: data/shards/metadata.json: not what dvc.lock records; `tiny-lm restore shards`" in output
    assert "Stage 'shards' is cached" in repository.dvc("repro", "train")  # DVC restores the recorded ones
    assert verify_shards(shards).tokenizer == metadata["tokenizer"]


def test_a_refused_setting_in_a_clone_without_a_cache_loses_nothing_in_git(repository):
    clone = repository.clone("clone")
    output = clone.fails("dvc", "exp", "run", "-S", "model.n_kv_heads=3")
    assert (
        "must be a divisor of n_heads = 4. Not all previous outputs could be restored: `dvc checkout --force " in output
    )
    advice = "the last run of train did not finish, so its outputs are missing; `tiny-lm restore train`"
    assert advice not in output
    assert clone.fails("dvc", "repro", "train").count(advice) == 1
    clone.git("checkout", "-q", "params.yaml")
    assert clone.git("status", "--short") == ""  # metrics and plots are those of the commit

    shutil.rmtree(clone.path / "results/train")
    (clone.path / METRICS).unlink()
    shutil.rmtree(clone.path / "data/corpus")
    output = clone.fails(*clone.TINY_LM, "restore")
    assert clone.git("status", "--short") == ""  # what one stage lacks keeps nothing of the next from it
    assert "restored data/corpus\nrestored data/exam\n" in output
    last = output.splitlines()[-1]
    for lacking in ("models/checkpoint", "results/evaluate/", "models/export"):
        assert lacking in last
    assert "`dvc checkout --force models/checkpoint results/evaluate/" in last
    assert last.count("Checkout failed for following targets") == 1  # one call for all
    assert last.endswith("; `dvc pull` may fetch what is missing, `dvc repro` rebuilds it")


def test_no_stage_writes_through_a_link_into_dvcs_cache(bench):
    """A user may type `dvc checkout` while it runs, and its outputs are links to what a commit has."""
    linked = relink(bench.repository)
    cached = objects(linked)
    linked.preset(*CHANGES.values())
    for stage in CHANGES:
        outputs = linked.hashes()
        outcome = bench.server.run(linked.path, stage)  # DVC would delete outputs before
        assert outcome["code"] == 0, outcome["said"]
        assert linked.hashes() != outputs
    assert objects(linked) == cached


def test_damaged_cache_files_are_deleted_and_rebuilt(linked):
    original = linked.lock()
    append(linked.path / "models/tokenizer/metadata.json")
    assert "models/tokenizer/metadata.json: not what" in linked.fails(*linked.TINY_LM, "check")
    said = linked.fails(*linked.TINY_LM, "restore", "tokenizer")
    assert ": its content did not match its name; deleted\n" in said
    assert said.endswith("; `dvc pull` may fetch what is missing, `dvc repro` rebuilds it\n")
    assert linked.ran(linked.dvc("repro")) == ["tokenizer"]
    linked.tiny_lm("check")
    assert linked.lock() == original


def test_damaged_cache_files_are_deleted_and_pulled_again(linked, tmp_path):
    original = linked.hashes()
    linked.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    linked.dvc("push")
    append(linked.path / "data/shards/metadata.json")
    assert "; deleted" in linked.fails(*linked.TINY_LM, "restore", "shards")
    linked.dvc("pull")
    linked.tiny_lm("check")
    assert linked.hashes() == original


def test_damage_that_dvc_does_not_see_is_repaired(repository):
    path = repository.path / "models/checkpoint/model.safetensors"
    content = bytearray(path.read_bytes())
    path.unlink()
    path.write_bytes(content)  # no link to the cache
    repository.dvc("status")  # remembers its inode, size and time
    before = path.stat()
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    repository.fails(*repository.TINY_LM, "check")
    repository.tiny_lm("restore", "train")
    repository.tiny_lm("check")


def test_nothing_is_restored_while_a_stage_runs(repository):
    repository.preset("evaluate.seed=7")
    process = repository.start("dvc", "repro", "evaluate")
    log, running = repository.log, repository.path / ".work/running"
    repository.wait_for(lambda: running.exists() and running.read_text() == "evaluate")
    stage = psutil.Process(int((repository.path / ".work/lock").read_text()))
    stage.suspend()
    said = repository.fails(*repository.TINY_LM, "restore", "evaluate")
    assert "restore: a stage is running in this workspace: wait for it, or stop it (process " in said
    stage.resume()
    repository.log = log
    code, output = repository.end(process)
    assert code == 0, output
    repository.tiny_lm("check")
