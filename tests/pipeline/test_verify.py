"""`tiny-lm verify` builds everything again elsewhere, and finds the same bytes."""

import os
import re
import signal


def test_verify_rebuilds_the_same_bytes(repository):
    output = repository.tiny_lm("verify")
    states = re.findall(r"^(identical|differs|may differ) +(\S+)", output, re.M)
    found = {path: state for state, path in states if "hardware" not in path}
    assert found == dict.fromkeys(repository.lock(), "identical")
    assert "may differ  results/train/hardware/metrics.json (it records time and machine)" in output
    assert not (repository.path / ".work/verify").exists()


def test_ctrl_c_leaves_no_process_and_no_file_of_the_rebuild(repository):
    before, scratch = repository.hashes(), repository.path / ".work/verify"
    process = repository.start(*repository.TINY_LM, "verify")
    repository.wait_for(lambda: (scratch / "data/corpus/metadata.json").exists())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    code, output = repository.end(process)
    assert code == 130
    assert "Traceback" not in output
    repository.wait_for(repository.is_left_alone)
    assert not scratch.exists()
    assert repository.hashes() == before


def test_a_text_that_git_ignores_is_rebuilt_from_too(repository):
    text = repository.path / "data/raw/book.txt"
    text.write_text("".join(f"Line {i} of a book about the number {i * i}.\n" for i in range(300)))
    repository.tiny_lm(
        "preset", "dataset=local", 'dataset.separator="\\n"', "dataset.validation=tail", "tokenizer.vocab_size=300"
    )
    repository.dvc("add", "data/raw/book.txt")  # as data/raw/README.md says of large ones
    repository.dvc("repro")
    assert "data/corpus" in repository.tiny_lm("verify")
