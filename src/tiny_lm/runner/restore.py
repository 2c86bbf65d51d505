"""Restores the outputs that dvc.lock records of a stage, metrics and plots included.

`dvc checkout` restores what DVC caches, `git checkout` the metrics and plots of the last commit. Those of an experiment
that is not committed are only in DVC's cache, which keeps every run, but checks out metrics only with a whole run.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_lm.io.params import parse_yaml, read_yaml
from tiny_lm.runner.dvc_lock import md5
from tiny_lm.runner.git import dvc, git

RUNNING = Path(".work/running")  # the name of the stage that is running, or was killed and left outputs missing


def output_paths(plan: Mapping[str, Any], kinds: tuple[str, ...] = ("outs", "metrics", "plots")) -> list[str]:
    """The paths that a stage of dvc.yaml writes."""
    entries = [entry for kind in kinds for entry in plan.get(kind, ())]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def restore_stage(name: str, plan: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The paths that were restored, and a line about each that could not be; one failure does not stop the rest."""
    lock = Path("dvc.lock")
    recorded = (read_yaml(lock).get("stages") or {}).get(name) if lock.exists() else None
    if not recorded:
        return [], []
    known, cached = output_paths(plan), output_paths(plan, ("outs",))
    cache = Path(dvc("cache", "dir").strip(), "files", "md5")
    restored, failures = [], []
    for out in recorded["outs"]:
        path = out["path"]
        try:
            if path not in known:
                raise ValueError(f"dvc.lock: {path} is no output of {name} in dvc.yaml")
            if path in cached:
                if _whole_files(cache, out) is not None:  # DVC would trust size and time of what is there
                    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
                dvc("checkout", "--force", path)
            elif not _from_cache(cache, out):
                _from_commit(name, recorded, path)
            restored.append(path)
        except ValueError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(f"{path}: {error}")
    return restored, failures


def _from_cache(cache: Path, out: Mapping[str, str]) -> bool:
    files = _whole_files(cache, out)
    for file, source in (files or {}).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        shutil.copyfile(source, file)
    return files is not None


def _whole_files(cache: Path, out: Mapping[str, str]) -> dict[Path, Path] | None:
    """The files of an output and where they are in DVC's cache, after a comparison of each with its name. None unless
    all are there. A damaged one is deleted, because DVC would trust it, and so is the output, which may link to it.
    """
    path, top = Path(out["path"]), _object(cache, out["md5"])
    whole = [_is_whole(top)]
    files = {path: top}
    if out["md5"].endswith(".dir") and all(whole):
        files = {file: _object(cache, digest) for file, digest in _read_list(path, top).items()}
        whole = [_is_whole(file) for file in files.values()]
    if False in whole:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return files if all(whole) else None


def _is_whole(file: Path) -> bool | None:
    """Whether the content of a file in DVC's cache matches its name; if not, deletes it. None if there is no file."""
    if not file.exists():
        return None
    if md5(file) == file.parent.name + file.name.removesuffix(".dir"):
        return True
    file.unlink()
    with contextlib.suppress(OSError):  # the terminal is closed
        print(f"{file}: its content did not match its name; deleted", file=sys.stderr, flush=True)
    return False


def _read_list(folder: Path, file: Path) -> dict[Path, str]:
    """DVC's list of the files in a folder. It came from a remote: it may name no file outside of the folder."""
    try:
        listed = {folder / entry["relpath"]: entry["md5"] for entry in json.loads(file.read_bytes())}
        inside = all(path != folder and ".." not in path.parts and path.is_relative_to(folder) for path in listed)
    except (ValueError, TypeError, KeyError, RecursionError):
        inside = False
    if not inside:
        raise ValueError(f"{file}: not a list of the files in {folder}; delete it, and run `dvc pull` or `dvc repro`")
    return listed


def _object(cache: Path, md5: str) -> Path:
    if not isinstance(md5, str) or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        raise ValueError(f"{str(md5)[:80]!r}: not a checksum of DVC's; run `git checkout dvc.lock`")
    return cache / md5[:2] / md5[2:]


def _from_commit(name: str, recorded: Mapping[str, Any], path: str) -> None:
    """Checks a file out of the last commit, if that is of the same run. ValueError if it is not, or if Git fails."""
    try:
        lock = git("show", "HEAD:./dvc.lock") if git("ls-tree", "HEAD", "--", "dvc.lock") else ""
    except ValueError as error:
        raise ValueError(f"{path}: not in DVC's cache, and {error}") from None
    if ((parse_yaml(lock, "dvc.lock") or {}).get("stages") or {}).get(name) != recorded:
        raise ValueError(f"{path}: neither in DVC's cache nor in the last commit; `dvc exp apply` restores experiments")
    git("checkout", "--quiet", "HEAD", "--", path)
