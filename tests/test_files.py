import errno
import os

import pytest

from tiny_lm.files import write_whole


def test_a_file_is_replaced_by_a_whole_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_stays_as_it_was_where_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, lambda file: file.write(b"new"))
    assert path.read_text() == "old"
