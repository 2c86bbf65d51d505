"""`tiny-lm verify` rebuilds everything in another folder and gets the same bytes."""

import os
import re
import signal


def test_verify_rebuilds_the_same_bytes(repository):
    output = repository.tiny_lm("verify")
    states = re.findall(r"^(identical|differs|may differ) +(\S+)", output, re.M)
    found = {path: state for state, path in states if "hardware" not in path}
    assert found == dict.fromkeys(repository.lock(), "identical")
    assert "may differ  results/train/hardware/metrics.json (records time and machine)" in output
    assert not (repository.path / ".work/verify").exists()


def test_ctrl_c_leaves_no_process_and_no_file_behind(repository):
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


def test_text_that_git_ignores_is_included(repository):
    (repository.path / "data/raw/book.txt").write_text("a text")
    (repository.path / "data/raw/.gitignore").write_text("/book.txt\n")  # as `dvc add` has it
    code = "from pathlib import Path; from tiny_lm.tools.verify import copy_tree; copy_tree(Path('copy'))"
    repository.run("env", "PYTHONPATH=src", "python", "-c", code)
    assert (repository.path / "copy/data/raw/book.txt").read_text() == "a text"
    assert not (repository.path / "copy/data/corpus").exists()  # which a stage makes
