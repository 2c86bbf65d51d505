"""One GPU for each of several stages that run at a time, as with `dvc queue start --jobs 4`."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from tiny_lm.runner.locks import Locked, hold

VISIBLE = "CUDA_VISIBLE_DEVICES"


def claim_gpu() -> IO[str] | None:
    """Makes the first GPU that no other stage of this user has claimed the only one that this process sees, for as long
    as the returned file is open. Changes nothing on a machine with one GPU or none, or if all are claimed.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return None
    for gpu in gpus:
        with contextlib.suppress(Locked):
            claim = hold(Path(tempfile.gettempdir(), f"tiny-lm-{os.getuid()}", f"{gpu}.lock"), f"{gpu} is in use")
            os.environ[VISIBLE] = gpu
            return claim
    return None


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would show this process, as indices or UUIDs. It does not load CUDA, which would fix them."""
    if VISIBLE in os.environ:
        return [gpu for gpu in os.environ[VISIBLE].replace(" ", "").split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else []
