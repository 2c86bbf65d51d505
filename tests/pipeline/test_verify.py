"""What `tiny-lm verify` copies, and that Ctrl-C leaves nothing behind. test_network.py has a whole rebuild."""

import os
import signal


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
