"""Runs Git and DVC, whose failures are reported in their own words; and finds out where experiments do not work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

# Set in Git's hooks and in DVC's stages, for another repository or index than that of the folder.
OTHER_REPOSITORY = {"DVC_ROOT", "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
                    "GIT_WORK_TREE"}  # fmt: skip


def git(*arguments: str, folder: Path = Path(".")) -> str:
    """The output of `git`. Raises ValueError if it fails, for example in a repository of another user."""
    return _run(["git"], "git", arguments, folder)


def dvc(*arguments: str, folder: Path = Path(".")) -> str:
    """The output of the `dvc` of this environment. Raises ValueError if it fails."""
    return _run([sys.executable, "-m", "dvc"], "dvc", arguments, folder)


def environment() -> dict[str, str]:
    """The environment for subprocesses: this Python is first on PATH, and no variable names another repository."""
    variables = {name: value for name, value in os.environ.items() if name not in OTHER_REPOSITORY}
    return variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"}


def _run(program: list[str], name: str, arguments: tuple[str, ...], folder: Path) -> str:
    try:
        done = subprocess.run(
            [*program, *arguments], cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="surrogateescape",  # names of files may be any bytes
        )  # fmt: skip
    except FileNotFoundError:
        raise ValueError(f"{name} is not installed") from None
    if done.returncode:
        text = done.stderr.split("ERROR: ")[-1]  # DVC shows its progress first
        text = text.splitlines()[-1] if "Traceback" in text else text
        reason = " ".join(text.split())[:1000] or f"exit code {done.returncode}"
        place = "" if folder == Path(".") else f" in {folder}"
        raise ValueError(f"`{shlex.join([name, *arguments])[:120]}` failed{place}: {reason}")
    return done.stdout


def is_shallow(folder: Path) -> bool:
    return git("rev-parse", "--is-shallow-repository", folder=folder).strip() == "true"


def require_full_history(root: Path) -> None:
    """Raises ValueError in a temporary experiment of a shallow clone: DVC would run it and then lose the results."""
    try:
        shallow = root.resolve() != Path.cwd() and is_shallow(root)
    except ValueError:  # Git fails or is not installed, and DVC could start without it
        shallow = False
    if shallow:
        raise ValueError(
            f"{root} is a shallow clone, in which DVC loses the results of `dvc exp run --temp` and of the queue; "
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
        if lines := [line.strip() for line in _lines(file) if not line.isascii()]:
            limits.append(f"{file} contains {lines[0]!r}, which is not ASCII: remove it or rename it")
    cache = Path(".dvc/cache").absolute()
    if not str(cache).isascii() and "[cache]" not in _lines(local):
        limits.append(f"{cache} is not ASCII: rename the folder, or run `dvc cache dir --local FOLDER`")
    return limits


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
