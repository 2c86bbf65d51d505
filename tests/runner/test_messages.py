"""What the runner says of an error: the cause in one line."""

import errno

import pytest

from tiny_lm.runner.messages import LOST_PEER, explain


def test_a_reset_connection_is_a_lost_process_only_if_there_are_others():
    error = ValueError("dataset.name = 'a/b': could not be loaded (Connection reset by peer)")
    assert explain(error) == str(error)
    assert explain(error, has_peers=True) == LOST_PEER


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_behind_the_error_of_a_library(code):
    error = RuntimeError("could not write")
    error.__cause__ = OSError(code, "No space left", "data/x")
    assert explain(error) == "the disk is full (data/x); free some space and run again"
