"""File locks, which the system frees when a process ends, kill -9 included."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import IO

WORKSPACE = Path(".work/lock")  # one stage at a time writes outputs
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Locked(ValueError):
    """Another process holds the lock."""


def hold(path: Path, otherwise: str) -> IO[str]:
    """Locks `path` for as long as the returned file is open. Raises Locked with `otherwise` if another process has it,
    and OSError if the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            file.seek(0)
            raise Locked(f"{otherwise} (process {file.read().strip() or 'unknown'})") from None
        reason = error.strerror
        if error.errno in NO_LOCKS:
            reason = f"this file system has no file locks ({reason}); move the repository to one that has"
        raise OSError(error.errno, reason, str(path)) from None
    with contextlib.suppress(OSError):  # the lock counts even if the disk is full
        path.write_text(str(os.getpid()))
    return file
