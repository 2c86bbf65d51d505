import errno
import hashlib
import json
import os

import pytest

from tiny_lm.io.files import AtomicFile, sha256, write_json, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_unchanged_if_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, lambda file: file.write(b"new"))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_written_in_chunks_appears_at_the_end_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    with AtomicFile(path) as file:
        file.write(b"1")
        assert not path.exists()
        file.write(b"2")
    assert path.read_bytes() == b"12"
    with pytest.raises(TypeError), AtomicFile(path) as file:
        file.write("3")
    assert path.read_bytes() == b"12"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_commit_returns_the_sha256_of_the_chunks_written(tmp_path):
    file = AtomicFile(tmp_path / "a")
    file.write(b"ab")
    file.write(memoryview(b"c"))
    assert file.commit() == sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    file.discard()  # does nothing after commit
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_a_discarded_file_leaves_nothing_even_if_the_disk_is_full(tmp_path):
    (tmp_path / "a.tmp").symlink_to("/dev/full")
    file = AtomicFile(tmp_path / "a")
    file.write(b"in the buffer")
    file.discard()
    assert file.closed
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é\udc80"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": "é\udc80"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
