"""Git and other programs: run one, return what it prints, and report a failure in the program's own words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Set inside hooks and DVC stages; they would point Git or DVC at another repository than the folder's.
OTHER_REPOSITORY = {"DVC_ROOT", "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
                    "GIT_WORK_TREE"}  # fmt: skip


def run(*command: str, folder: Path = Path(".")) -> str:
    """The output of a command in `folder`; "dvc" is the one of this environment. ValueError if it fails."""
    program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
    try:
        done = subprocess.run(
            [*program, *command[1:]], cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
    except FileNotFoundError:
        raise ValueError(f"{command[0]} is not installed, or not on PATH: needed for `{' '.join(command)}`") from None
    if done.returncode:
        message = " ".join(done.stderr[:1000].split()) or f"exit code {done.returncode}"
        raise ValueError(f"`{' '.join(command)}` failed in {folder.resolve()}: {message}")
    return done.stdout


def environment() -> dict[str, str]:
    """The variables for programs that this one starts: this Python comes first, and no other repository is named."""
    variables = {name: value for name, value in os.environ.items() if name not in OTHER_REPOSITORY}
    return variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"}
