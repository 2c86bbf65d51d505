"""Git, whose failures are reported in its own words, and what DVC cannot do in some repositories."""

import subprocess
from pathlib import Path


def git(*arguments: str, folder: Path = Path(".")) -> str:
    """What `git` prints. ValueError if it fails, as it does in a repository of another user, or without one."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
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
    if root.resolve() != Path.cwd() and is_shallow(root):
        raise ValueError(
            f"{root} is a shallow clone, in which DVC loses the results of `dvc exp run --temp` and of the queue: "
            "`git fetch --unshallow` completes it"
        )


def limits_of_experiments(root: Path = Path(".")) -> list[str]:
    """Why `dvc exp run --temp` and the queue do not work in this repository, with the remedy; normally nothing."""
    limits = []
    if is_shallow(root):
        limits.append("this is a shallow clone: run `git fetch --unshallow`")
    # DVC writes all of these into config files of the experiment, in ASCII
    cache = Path(root.resolve(), ".dvc", "cache")
    config, local = Path(git("rev-parse", "--git-path", "config", folder=root).strip()), Path(".dvc/config.local")
    local_text = _read(root / local)
    if not str(cache).isascii() and "[cache]" not in local_text:
        limits.append(f"{cache} is not ASCII: move the repository, or run `dvc cache dir --local FOLDER`")
    limits += [
        f"{file} contains {_first_non_ascii(text)!r}, which is not ASCII: put it into another config file, or rename it"
        for file, text in ((config, _read(root / config)), (local, local_text))
        if not text.isascii()
    ]
    return limits


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _first_non_ascii(text: str) -> str:
    return next(line.strip() for line in text.splitlines() if not line.isascii())
