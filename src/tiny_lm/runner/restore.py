"""Restores the outputs of stages that dvc.lock records, metrics and plots included.

`dvc checkout` restores what DVC caches, `git checkout` the metrics and plots of the last commit. Those of an experiment
that is not committed are in DVC's cache only, which keeps every run but checks out metrics only with a whole run.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_lm.runner.dvc_lock import Output, file_md5, parse_outputs, recorded_outputs
from tiny_lm.runner.git import dvc, git
from tiny_lm.runner.messages import say
from tiny_lm.runner.pipelines import LOCKS

RUNNING = Path(".work/running")  # the name of the stage that is running, or was killed and left outputs missing


def output_paths(plan: Mapping[str, Any], kinds: tuple[str, ...] = ("outs", "metrics", "plots")) -> list[str]:
    """The paths that a stage of dvc.yaml writes."""
    entries = [entry for kind in kinds for entry in plan.get(kind, ())]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def restore_stages(plans: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Restores the outputs of the stages in `plans`, which are entries of dvc.yaml by name.

    Returns the restored paths, and lines about those that could not be restored; one failure does not stop the rest.
    """
    recorded = [(lock, output) for lock in LOCKS for output in recorded_outputs(lock) if output.stage in plans]
    restored, failures = list[str](), list[str]()
    stages = {output.stage for _, output in recorded}
    for name, plan in plans.items():
        if name not in stages:
            restored += _checkout_of_a_first_run(plan)
    if not recorded:
        return restored, failures
    cache = Path(dvc("cache", "dir").strip(), "files", "md5")
    intact: list[str] = []  # outputs that DVC checks out, by whether its cache has all their files
    lacking: list[str] = []
    for lock, output in recorded:
        plan = plans[output.stage]
        try:
            if output.path not in output_paths(plan):
                raise ValueError(f"{lock}: {output.path} is no output of {output.stage} in {lock.with_suffix('.yaml')}")
            remove(Path(f"{output.path}.tmp"))  # what a killed run had begun to write
            files = intact_files(output, cache)
            if files:  # DVC would trust size and time of what is there
                remove(Path(output.path))
            if output.path in output_paths(plan, ("outs",)):
                (intact if files else lacking).append(output.path)
                continue
            if files:
                _copy(files)
            else:
                _checkout_from_commit(output, lock)
            restored.append(output.path)
        except ValueError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(f"{output.path}: {error}")
    for paths in filter(None, (intact, lacking)):  # all in one call, because DVC takes a second to start
        try:
            dvc("checkout", "--force", *paths)
            restored += paths
        except ValueError as error:
            failures.append(str(error))
    return restored, failures


def remove(path: Path) -> None:
    """Deletes a file or a folder if it exists."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def intact_files(output: Output, cache: Path) -> dict[Path, Path]:
    """The files of an output and where they are in DVC's cache; none unless all are there and intact. A damaged one is
    deleted, because DVC would trust it, and so is the output, which may link to it.
    """
    path, top = Path(output.path), _object(cache, output.md5)
    files, intact = {path: top}, [_is_intact(top)]
    if output.md5.endswith(".dir") and intact == [True]:
        files = {file: _object(cache, digest) for file, digest in _read_list(path, top).items()}
        intact = [_is_intact(file) for file in files.values()]
    if False in intact:
        remove(path)
    return files if all(intact) else {}


def _copy(files: Mapping[Path, Path]) -> None:
    for file, source in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, file)


def _is_intact(file: Path) -> bool | None:
    """Whether the content of a file in DVC's cache matches its name; deletes it if not. None if there is no file."""
    if not file.exists():
        return None
    if file_md5(file) == file.parent.name + file.name.removesuffix(".dir"):
        return True
    file.unlink()
    say(f"{file}: its content did not match its name; deleted")
    return False


def _read_list(folder: Path, file: Path) -> dict[Path, str]:
    """DVC's list of the files in a folder. It came from a remote, so it must not name a file outside of the folder."""
    try:
        listed = {folder / entry["relpath"]: entry["md5"] for entry in json.loads(file.read_bytes())}
        inside = all(path != folder and ".." not in path.parts and path.is_relative_to(folder) for path in listed)
    except (ValueError, TypeError, KeyError, RecursionError):
        inside = False
    if not inside:
        raise ValueError(f"{file}: not a list of the files in {folder}; delete it, and run `dvc pull` or `dvc repro`")
    return listed


def _object(cache: Path, md5: object) -> Path:
    if not isinstance(md5, str) or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        raise ValueError(f"{str(md5)[:80]!r}: not a checksum of DVC's; run `git checkout dvc.lock`")
    return cache / md5[:2] / md5[2:]


def _checkout_from_commit(output: Output, lock: Path) -> None:
    try:
        committed = parse_outputs(git("show", f"HEAD:./{lock}"), lock)
    except ValueError as error:
        raise ValueError(f"{output.path}: not in DVC's cache, and {error}") from None
    if output not in committed:
        raise ValueError(
            f"{output.path}: neither in DVC's cache nor in the last commit; `dvc exp apply` restores experiments"
        )
    git("checkout", "--quiet", "HEAD", "--", output.path)


def _checkout_of_a_first_run(plan: Mapping[str, Any]) -> list[str]:
    """Restores metrics that are in the last commit although the stage has never run, like the empty ones of `tasks`."""
    restored = []
    for path in output_paths(plan, ("metrics", "plots")):
        with contextlib.suppress(ValueError):  # there is no commit, or it does not have the file
            git("checkout", "--quiet", "HEAD", "--", path)
            restored.append(path)
    return restored
