"""Stage context: the params of a stage, its work folder, and detection of changes to params, code and data.

DVC hashes params, code and data after a stage's command, and deletes its outputs before it. So a stage
- gets the params sections that `dvc.yaml` lists for it, and `runtime`, and no others;
- fails if params, code or data at its end differ from those at its start;
- keeps what it needs to resume in a folder named after all three.
`run.py` runs it.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from tiny_lm.io.files import sha256
from tiny_lm.io.params import check, flat, load_params, read_yaml
from tiny_lm.runner.executors import Processes, RayTasks
from tiny_lm.runner.locks import Locked, hold
from tiny_lm.runner.messages import say
from tiny_lm.runner.overrides import is_first_process

T = TypeVar("T")
WORKER = not is_first_process()  # one of several processes that run the stage, each on a device: worker.py
FIRST = not WORKER or os.environ.get("RANK") == "0"  # the process that writes the outputs
ROOT = Path(os.environ.get("DVC_ROOT", "."))  # of the repository that a temporary experiment belongs to
LIBRARIES = ("torch", "pytorch-lightning", "numpy")
FINISHED = "finished"  # a file in the work folder of a run that succeeded: the MD5 sums of its metrics
KEPT_RUNS = 8  # that were stopped or killed, and may be resumed
LARGE = 1 << 20  # bytes; a larger data file is identified by its size: the metadata next to it has its checksum


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """How a stage runs on this machine; nothing in this section can change a byte of an artifact."""

    executor: Literal["local", "ray"] = "local"  # where corpus and shards are made; ray: docs/cluster.md
    address: str | None = None  # of a Ray cluster, such as auto or HOST:6379; null: RAY_ADDRESS, or this machine
    workers: int = 0  # processes of executor: local; 0: all cores
    progress: bool = True  # progress bars; an occasional line if the output is a file
    # tensorboard, trackio, wandb; in addition to DVCLive, which always logs
    loggers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    launcher: Literal["none", "torchrun", "srun"] = "none"  # none: one device; srun: in a SLURM job
    devices: int = 1  # total number of devices that train a model, over all nodes
    nodes: int = 1

    def __post_init__(self) -> None:
        for key in ("devices", "nodes"):
            check(1 <= getattr(self, key) <= 1024, key, getattr(self, key), "between 1 and 1024")
        check(self.devices % self.nodes == 0, "devices", self.devices, f"a multiple of nodes = {self.nodes}")
        one = self.devices == 1 or self.launcher != "none"
        check(one, "devices", self.devices, "1 with launcher = none; more need torchrun, or srun in a SLURM job")
        check(0 <= self.workers <= 1024, "workers", self.workers, "between 0 (all cores) and 1024")
        if self.executor == "local":
            check(self.address is None, "address", self.address, "null with executor: local")
        check(self.address != "", "address", self.address, "null, auto, or HOST:PORT")


class Stage:
    """A running stage. `plan` is its entry in dvc.yaml; paths are relative to the project's folder."""

    def __init__(self, name: str, plan: Mapping[str, Any]) -> None:
        params = read_yaml(Path("params.yaml"))
        self.name = name
        self.values: dict[str, Any] = {section: params.get(section) for section in plan["params"]}
        runtime = load_params("runtime", params.get("runtime"), RuntimeParams)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.runtime = replace(runtime, workers=runtime.workers or cores)
        self.code = [Path(dep) for dep in plan["deps"] if dep.startswith("src/")]  # files and folders
        deps = [dep for dep in plan["deps"] if not dep.startswith("src/")]
        key = re.compile(r"\$\{(\w+)\.(\w+)\}")  # DVC replaces `${section.key}` by its value
        self.data = [Path(key.sub(lambda m: str((params.get(m[1]) or {}).get(m[2])), dep)) for dep in deps]
        self._start = self._state(params)
        self.work: Path | None = None  # set by work_folder()

    def section(self, name: str, choices: type[T] | Mapping[str, type[T]]) -> T:
        """The params object of a section that dvc.yaml lists for this stage."""
        assert name in self.values, f"stage {self.name} reads the section {name}, which dvc.yaml does not list for it"
        return load_params(name, self.values[name], choices)

    @contextlib.contextmanager
    def executor(self) -> Iterator[Processes | RayTasks]:
        """What computes the parts of this stage's work: processes of this machine, or a Ray cluster."""
        if self.runtime.executor == "ray":
            executor: Processes | RayTasks = RayTasks(self.runtime.address)
        else:
            executor = Processes(self.runtime.workers, f"tiny_lm.stages.{self.name}")
        with contextlib.closing(executor):
            yield executor

    def may_use_one_gpu(self) -> bool:
        params = self.values.get(self.name) or {}
        return self.runtime.devices == 1 and params.get("accelerator") in ("auto", "cuda")

    def say(self, line: str) -> None:
        if FIRST:
            say(f"{self.name}: {line}")

    def changes(self) -> list[str]:
        """Params, code and data files that have changed since the stage started."""
        start, now = self._start, self._state(read_yaml(Path("params.yaml")))
        return sorted(key for key in start.keys() | now.keys() if start.get(key) != now.get(key))

    def warn_of_changes(self) -> None:
        """Warns right away of what would be an error at the end."""
        if not FIRST:
            return
        with contextlib.suppress(OSError, ValueError):  # an editor is writing the file: the next call reports it
            if changed := self.changes():
                self.say(f"changed during the run: {', '.join(changed)}; undo that, or this run will fail at its end")

    @cached_property
    def contents(self) -> dict[str, str]:
        """Params, code and data at the start: their values, checksums, and sizes of large files."""
        sizes = {path: path.stat().st_size for path in _files(self.data)}
        data = {str(path): str(size) if size > LARGE else sha256(path) for path, size in sizes.items()}
        return self._start | data

    def identity(self) -> dict[str, str]:
        """What must be alike on all nodes: `contents`, and the versions of Python and the libraries that compute."""
        return self.contents | {name: version(name) for name in LIBRARIES} | {"Python": platform.python_version()}

    def folder(self) -> Path:
        """The folder of `work_folder`, which need not exist."""
        digest = hashlib.sha256(json.dumps(self.contents, sort_keys=True).encode()).hexdigest()[:16]
        return ROOT / ".work" / self.name / digest

    def work_folder(self) -> Path:
        """Where this run keeps what it needs to resume after a kill, outside of Git and DVC. Its name is a digest of
        params, code and data, because a resume checkpoint belongs to exactly one of each. A temporary experiment
        uses the repository it belongs to, which outlives its own folder. Of other runs, the folders of the last few
        that did not finish stay, and of those that are running.
        """
        folder = self.folder()
        if WORKER:  # the launcher has done the rest
            return folder
        self._work_lock = hold(folder.with_suffix(".lock"), "the same run is running in another workspace")
        folder.mkdir(exist_ok=True)
        self.work = folder
        others = [lock.with_suffix("") for lock in folder.parent.glob("*.lock") if lock.stem != folder.name]
        unfinished = sorted((other for other in others if _last_saved(other)), key=_last_saved)
        for other in {*others} - {*unfinished[-KEPT_RUNS:]}:
            with contextlib.suppress(Locked):  # it is running
                _lock = hold(other.with_suffix(".lock"), "")
                shutil.rmtree(other, ignore_errors=True)
                other.with_suffix(".lock").unlink(missing_ok=True)
        return folder

    def _state(self, params: Mapping[str, Any]) -> dict[str, str]:
        """The values of the params, the hashes of the code, and size and time of data files, which may be large."""
        values = flat({section: params.get(section) for section in self.values})
        whole = {key: int(x) if isinstance(x, float) and x.is_integer() else x for key, x in values}  # as DVC compares
        state = {key: repr(value) for key, value in whole.items()}
        # Python compiles while the stage runs, and a deleted file shows as a change, too.
        state |= {str(path): sha256(path) for path in _files(self.code) if path.suffix != ".pyc"}
        return state | {str(file): f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in _files(self.data)}


def _last_saved(folder: Path) -> float:
    """When a run that did not finish has saved what it needs to resume, in seconds; 0 if there is nothing to resume."""
    try:
        names = os.listdir(folder)
        return folder.stat().st_mtime if names and FINISHED not in names else 0
    except FileNotFoundError:  # another run that starts has deleted it
        return 0


def _files(paths: list[Path]) -> list[Path]:
    """The files among the paths and in the folders among them."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [file for file in files if file.is_file()]
