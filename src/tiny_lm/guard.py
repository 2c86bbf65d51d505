"""What a stage is handed, and what is recorded of it: params, code and data, so that DVC records what happened.

DVC hashes params, code and data after a stage's command, and deletes its outputs before. A stage therefore
- is handed the params sections that `dvc.yaml` lists for it, and `runtime`, and no others;
- ends with an error where params, code or data are not what they were at its start;
- keeps what it needs to continue in a folder named by all three.
`frame.py` runs it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from tiny_lm.environment import is_first_process
from tiny_lm.files import sha256
from tiny_lm.params import check, flat, load_params, read_yaml

T = TypeVar("T")
FIRST = is_first_process()  # Lightning starts the stage again for each further device
ROOT = Path(os.environ.get("DVC_ROOT", "."))  # of the repository that a temporary experiment belongs to
LARGE = 1 << 20  # bytes; beyond it a data file is known by its size: its checksum stands in the metadata beside it


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """How a stage runs here; nothing in this section can change a byte of an artifact."""

    workers: int  # threads that encode text; 0 = all cores
    progress: bool  # progress bars; where the output is a file, one line now and then
    loggers: tuple[Literal["tensorboard", "trackio", "wandb"], ...]  # beside DVCLive, which always runs

    def __post_init__(self) -> None:
        check(0 <= self.workers <= 1024, "workers", self.workers, "between 0 (all cores) and 1024")


class Stage:
    """A stage while it runs: `plan` is its entry in dvc.yaml, and paths are relative to the repository's root."""

    def __init__(self, name: str, plan: Mapping[str, Any]) -> None:
        params = read_yaml(Path("params.yaml"))
        self.name = name
        self.values: dict[str, Any] = {section: params.get(section) for section in plan["params"]}
        runtime = load_params("runtime", params.get("runtime"), RuntimeParams)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.runtime = replace(runtime, workers=runtime.workers or cores)
        self.code = [Path(dep) for dep in plan["deps"] if dep.startswith("src/")]  # files and folders
        deps = [dep for dep in plan["deps"] if not dep.startswith("src/")]
        key = re.compile(r"\$\{(\w+)\.(\w+)\}")  # DVC fills `${section.key}` in
        self.data = [Path(key.sub(lambda m: str((params.get(m[1]) or {}).get(m[2])), dep)) for dep in deps]
        self._start = self._read(params)
        self.work: Path | None = None  # where it keeps what it needs to continue, once it has asked for such a folder

    def section(self, name: str, choices: type[T] | Mapping[str, type[T]]) -> T:
        """The params object of a section that dvc.yaml lists for this stage."""
        assert name in self.values, f"stage {self.name} reads the section {name}, which dvc.yaml does not list for it"
        return load_params(name, self.values[name], choices)

    def say(self, line: str) -> None:
        print(f"{self.name}: {line}", file=sys.stderr, flush=True)

    def changes(self) -> list[str]:
        """Params, code and data files that are no longer what they were when the stage started."""
        start, now = self._start, self._read(read_yaml(Path("params.yaml")))
        return sorted(key for key in start.keys() | now.keys() if start.get(key) != now.get(key))

    def warn_of_changes(self) -> None:
        """Says at once what would be an error at the end."""
        with contextlib.suppress(OSError, ValueError):  # half written: the next time
            if changed := self.changes():
                self.say(f"edited while it runs: {', '.join(changed)}; put that back, or this run will not be recorded")

    def work_folder(self) -> Path:
        """Where this run keeps what it needs to continue after a kill: named by params, code and data, since a recovery
        state belongs to exactly one of each; outside Git and DVC. A temporary experiment keeps it in the repository
        that it belongs to, which outlives its own folder. Those of other runs go, unless they run now.
        """
        sizes = {path: path.stat().st_size for path in self._data_files()}
        data = {str(path): str(size) if size > LARGE else sha256(path) for path, size in sizes.items()}
        digest = hashlib.sha256(json.dumps(self._start | data, sort_keys=True).encode()).hexdigest()[:16]
        folder = ROOT / ".work" / self.name / digest
        if not FIRST:
            return folder
        self._work_lock = hold(folder.with_suffix(".lock"), "the same run goes on in another workspace")
        folder.mkdir(exist_ok=True)
        self.work = folder
        for other in [path.with_suffix("") for path in folder.parent.glob("*.lock") if path.stem != digest]:
            with contextlib.suppress(ValueError):  # that run goes on now
                _lock = hold(other.with_suffix(".lock"), "")
                shutil.rmtree(other, ignore_errors=True)
                other.with_suffix(".lock").unlink()
        return folder

    def _read(self, params: Mapping[str, Any]) -> dict[str, str]:
        """The values of the params and the hashes of the code; the sizes and times of the data, which may be large."""
        values = flat({section: params.get(section) for section in self.values})
        whole = {key: int(x) if isinstance(x, float) and x.is_integer() else x for key, x in values}  # as DVC compares
        facts = {key: repr(value) for key, value in whole.items()}
        code = [file for path in self.code for file in (sorted(path.rglob("*.*")) if path.is_dir() else [path])]
        code = [path for path in code if path.suffix != ".pyc"]  # compiled by Python while the stage runs
        facts |= {str(path): sha256(path) if path.exists() else "missing" for path in code}
        return facts | {str(file): f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in self._data_files()}

    def _data_files(self) -> list[Path]:
        paths = [file for path in self.data for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [path for path in paths if path.is_file()]


def hold(path: Path, otherwise: str) -> IO[str]:
    """Locks `path` while the returned file is open; the system frees it when the process ends, kill -9 included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        raise ValueError(f"{otherwise} (process {file.read().strip() or 'unknown'})") from None
    with contextlib.suppress(OSError):  # locked all the same, where the disk is full
        path.write_text(str(os.getpid()))
    return file
