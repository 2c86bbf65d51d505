"""Drafts of the corpus: a disk that is full for a moment is an error, even if it has space again at the next write."""

import numpy as np
import pytest
from limits import file_size

from tiny_lm.corpus.drafts import FACTS, write_draft


@pytest.mark.parametrize("size", [2000, 10])  # the text is the largest file, and the fingerprints are
def test_a_write_that_is_cut_short_is_an_error(tmp_path, size):
    facts, prints = np.zeros(40, FACTS), np.arange(40, dtype="<u8")
    facts["bytes"] = size

    def write():
        write_draft(str(tmp_path / "draft"), [b"x" * size] * 40, facts, prints, prints)

    write()
    largest = max(path.stat().st_size for path in tmp_path.iterdir())
    with file_size(largest - 1), pytest.raises(OSError, match="File too large"):
        write()
