"""Limits of the system for a moment."""

import resource
from contextlib import contextmanager


@contextmanager
def file_size(size):
    """Files grow up to `size` bytes; what is written beyond fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
