"""File locks, which the system releases when a process ends, kill -9 included."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

WORKSPACE = Path(".work/lock")  # one stage at a time writes outputs


class Locked(ValueError):
    """Another process holds the lock."""


def hold(path: Path, otherwise: str) -> IO[str]:
    """Locks `path` for as long as the returned file is open. Raises Locked with the message `otherwise` if another
    process holds the lock, and OSError if the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise Locked(f"{otherwise} (process {file.read().strip() or 'unknown'})") from None
    except OSError as error:
        reason = f"no file locks ({error.strerror}); move the repository to a file system that has them"
        raise OSError(error.errno, reason, str(path)) from None
    if not _is_at(path, file):  # another process has deleted it before it was locked
        file.close()
        return hold(path, otherwise)
    with contextlib.suppress(OSError):  # the lock counts even if the disk is full
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


def _is_at(path: Path, file: IO[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
