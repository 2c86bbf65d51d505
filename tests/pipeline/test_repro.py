"""`dvc repro` builds what is stale and nothing else, and keeps the previous results if something is wrong."""

import re
import shutil
import subprocess

import pytest

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


def test_training_works_in_a_repository_without_a_commit(bench):
    """Beginners run before they commit; DVCLive would look for the commit."""
    shutil.rmtree(bench.path / ".git")
    subprocess.run(["git", "init", "-q", str(bench.path)], check=True, env=bench.repository.environment)
    outcome = bench.start("train")
    assert outcome["code"] == 0, outcome["said"]
    bench.outputs_are_back()


def only_line(output, stage):
    """The one line that the stage printed, in front of DVC's own."""
    lines = [line for line in output.splitlines() if line.startswith(f"{stage}: ")]
    assert len(lines) == 1, output
    assert re.search(rf"^ERROR: failed to reproduce '{stage}'", output, re.M)
    return lines[0]


@pytest.mark.parametrize(("content", "expected"), BROKEN_DATA)
def test_bad_data_is_one_line_and_the_previous_results_are_restored(bench, content, expected):
    bench.preset("dataset=local")
    text = bench.path / "data/raw/text.txt"
    if content is not None:
        text.write_bytes(content)
    outcome = bench.start("corpus")
    text.unlink(missing_ok=True)
    (line,) = outcome["said"].splitlines()
    assert re.match(expected, line), line
    assert line.endswith("The previous outputs are restored")
    bench.outputs_are_back()


def test_a_missing_dataset_is_an_error_of_dvc_and_checkout_brings_the_results_back(repository):
    """DVC itself misses a file that is not there, after it has deleted the outputs."""
    before = repository.hashes()
    repository.preset("dataset=local")
    repository.edit("params.yaml", "path: data/raw", "path: data/nowhere.txt")
    output = repository.fails("dvc", "repro")
    assert "ERROR: failed to reproduce 'corpus'" in output
    assert "data/nowhere.txt" in output
    repository.git("checkout", "-q", "params.yaml")
    repository.dvc("checkout")
    assert repository.hashes() == before


@pytest.mark.parametrize(
    ("stage", "old", "new", "expected"),
    [
        ("tokenizer", "vocab_size: 320", "vocab_size: 1000000", "tokenizer.vocab_size = 1000000: the text is only "),
        ("train", "context_length: 32", "context_length: 100000", "model.context_length = 100000: data/shards/train "),
    ],
)
def test_params_that_do_not_suit_the_data_are_one_line_and_the_outputs_are_restored(bench, stage, old, new, expected):
    bench.repository.edit("params.yaml", old, new)
    outcome = bench.start(stage)
    (line,) = outcome["said"].splitlines()
    assert line.startswith(f"{stage}: {expected}")
    assert line.endswith("The previous outputs are restored")
    bench.outputs_are_back()


def test_bad_params_are_one_line_and_the_previous_results_are_restored(repository):
    before = repository.hashes()
    output = repository.fails("dvc", "exp", "run", "-S", "dataset.documents=abc")
    assert "corpus: dataset.documents = 'abc': must be a whole number" in only_line(output, "corpus")
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
