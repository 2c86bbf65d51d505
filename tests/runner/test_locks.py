import errno
import fcntl
import os

import pytest

from tiny_lm.runner.locks import Locked, hold


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    path = tmp_path / "new/lock"
    first = hold(path, "busy")
    with pytest.raises(Locked, match=rf"^busy \(process {os.getpid()}\)$"):
        hold(path, "busy")
    first.close()
    hold(path, "busy").close()


def test_a_file_that_is_deleted_before_it_is_locked_is_not_the_lock(tmp_path, monkeypatch):
    path, lock = tmp_path / "lock", fcntl.flock

    def delete_first(*arguments):
        monkeypatch.setattr(fcntl, "flock", lock)
        path.unlink()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    first = hold(path, "busy")
    with pytest.raises(Locked, match=rf"^busy \(process {os.getpid()}\)$"):
        hold(path, "busy")
    first.close()


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=r"no file locks \(No locks available\); move the repository .*/lock'"):
        hold(tmp_path / "lock", "busy")
