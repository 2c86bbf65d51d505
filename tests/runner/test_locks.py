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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_one_that_is_locked(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=r"this file system has no file locks \(.*\); move the repository .*/lock'"):
        hold(tmp_path / "lock", "busy")


def test_any_other_failure_is_reported_as_itself(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*/lock'"):
        hold(tmp_path / "lock", "busy")
