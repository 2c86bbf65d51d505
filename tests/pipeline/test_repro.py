"""`dvc repro` builds what is stale and nothing else, and keeps the previous results if something is wrong."""

import re
import shutil
import subprocess

BROKEN_DATA = [  # what is in data/raw/text.txt, and the line that says what is wrong with it
    (None, r"corpus: dataset.path = 'data/raw': no .* matches dataset.glob"),
    (b"", r"corpus: no documents in the source \(dataset.source = local, dataset.path = data/raw\)"),
    (b"caf\xe9", r"corpus: data/raw/text.txt: not UTF-8 at byte 3"),
    (b"one line", r"corpus: no documents in the validation split \(1 read\); "),
]


def test_nothing_runs_if_nothing_changed(repository):
    output = repository.dvc("repro")
    assert repository.ran(output) == []
    assert output.count("didn't change, skipping") == 6
    assert repository.is_clean()

    clone = repository.clone("clone")  # without the data: the lock alone says that all is fresh
    output = clone.dvc("repro", "--allow-missing", "--dry")
    assert output.count("didn't change, skipping") == 6
    clone.edit("params.yaml", "max_new_tokens: 8", "max_new_tokens: 9")
    assert "failed to reproduce 'evaluate'" in clone.fails("dvc", "repro", "--allow-missing", "--dry")


def test_training_works_in_a_repository_without_a_commit(repository):
    """Beginners run before they commit; DVCLive would look for the commit."""
    recorded = repository.lock()
    shutil.rmtree(repository.path / ".git")
    subprocess.run(["git", "init", "-q", str(repository.path)], check=True, env=repository.environment)
    output = repository.dvc("repro", "--force", "--single-item", "train")
    assert repository.ran(output) == ["train"]
    assert repository.lock() == recorded


def only_line(output, stage):
    """The one line that the stage printed, in front of DVC's own."""
    lines = [line for line in output.splitlines() if line.startswith(f"{stage}: ")]
    assert len(lines) == 1, output
    assert re.search(rf"^ERROR: failed to reproduce '{stage}'", output, re.M)
    return lines[0]


def test_bad_data_is_one_line_and_the_previous_results_are_restored(repository):
    before = repository.hashes()
    repository.preset("dataset=local")
    for content, expected in BROKEN_DATA:
        if content is not None:
            (repository.path / "data/raw/text.txt").write_bytes(content)
        line = only_line(repository.fails("dvc", "repro"), "corpus")
        assert re.match(expected, line), line
        assert line.endswith("The previous outputs are restored")
        assert repository.hashes() == before

    # DVC itself misses a file that is not there, after it has deleted the outputs: `dvc checkout` brings them back.
    repository.edit("params.yaml", "path: data/raw", "path: data/nowhere.txt")
    output = repository.fails("dvc", "repro")
    assert "ERROR: failed to reproduce 'corpus'" in output
    assert "data/nowhere.txt" in output
    repository.git("checkout", "-q", "params.yaml")
    repository.dvc("checkout")
    assert repository.hashes() == before


def test_bad_params_are_one_line_and_the_previous_results_are_restored(repository):
    before = repository.hashes()
    for stage, setting, expected in [
        ("corpus", "dataset.documents=abc", "dataset.documents = 'abc': must be a whole number"),
        ("tokenizer", "tokenizer.vocab_size=1000000", "tokenizer.vocab_size = 1000000: the text is only enough for"),
        ("train", "model.context_length=100000", "model.context_length = 100000: data/shards/train has only"),
    ]:
        output = repository.fails("dvc", "exp", "run", "-S", setting)
        assert f"{stage}: {expected}" in only_line(output, stage)
        assert repository.hashes() == before
        repository.git("checkout", "-q", "params.yaml")
    assert "n_kvheads" in repository.fails("dvc", "exp", "run", "-S", "model.n_kvheads=1")
    assert repository.is_clean()

    repository.edit("params.yaml", "vocab_size: 320", "vocab_sise: 320")
    output = repository.fails("dvc", "repro")
    assert "tokenizer: tokenizer.vocab_sise: unknown key" in only_line(output, "tokenizer")
    assert repository.hashes() == before

    repository.edit("params.yaml", "vocab_sise: 320", "vocab_size: 320")
    assert repository.ran(repository.dvc("repro")) == []
    assert repository.is_clean()
