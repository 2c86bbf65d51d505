"""Ctrl-C during `tiny-lm verify` leaves nothing behind. test_network.py has a whole rebuild."""

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
