"""Git, whose failures are reported in its own words, and what DVC cannot do in some repositories."""

import os
import subprocess
from pathlib import Path

# Set in Git's hooks; they would point Git at another repository or index than the folder's.
HOOK_VARIABLES = {"GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE"}


def git(*arguments: str, folder: Path = Path(".")) -> str:
    """What `git` prints. ValueError if it fails, as it does in a repository of another user, or without one."""
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise ValueError("git is not installed") from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ValueError(f"`git {' '.join(arguments)}` failed: {reason}")
    return done.stdout


def is_shallow(folder: Path) -> bool:
    return git("rev-parse", "--is-shallow-repository", folder=folder).strip() == "true"


def require_full_history(root: Path) -> None:
    """Raises ValueError in a temporary experiment of a shallow clone: DVC would run it and then lose the results."""
    try:
        shallow = root.resolve() != Path.cwd() and is_shallow(root)
    except ValueError:  # Git fails, as without a `git`: no reason to stop what DVC was able to start
        shallow = False
    if shallow:
        raise ValueError(
            f"{root} is a shallow clone, in which DVC loses the results of `dvc exp run --temp` and of the queue: "
            "run `git fetch --unshallow`"
        )


def limits_of_experiments() -> list[str]:
    """Why `dvc exp run --temp` and the queue do not work in this folder, each with the remedy; normally nothing."""
    try:
        shallow, partial = is_shallow(Path(".")), "promisor true" in git("config", "--list").replace("=", " ")
        config = Path(git("rev-parse", "--git-path", "config").strip())
    except ValueError as error:
        return [str(error)]
    limits = ["this is a shallow clone: run `git fetch --unshallow`"] if shallow else []
    limits += ["this is a partial clone: clone again without --filter"] if partial else []
    # DVC copies these into config files of the experiment, in ASCII.
    local = Path(".dvc/config.local")
    for file in (config, local):
        if odd := [line.strip() for line in _lines(file) if not line.isascii()]:
            limits.append(f"{file} contains {odd[0]!r}, which is not ASCII: remove it, or give it another name")
    cache = Path(".dvc/cache").absolute()
    if not str(cache).isascii() and "[cache]" not in _lines(local):
        limits.append(f"{cache} is not ASCII: rename the folder, or run `dvc cache dir --local FOLDER`")
    return limits


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
