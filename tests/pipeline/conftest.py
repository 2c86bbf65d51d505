"""A tiny repository with the whole pipeline built once, for all workers of pytest, and a copy of it for each test.

It is made of the working tree, edits that are not committed included. Tests type what a user types: `dvc`, `git` and
`tiny-lm`, each in its own process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pipeline.bench import Bench, Server
from tries import ALL

from tiny_lm.io.params import read_yaml
from tiny_lm.runner.overrides import SETTINGS
from tiny_lm.tools import preset

ROOT = Path(__file__).parents[2]
TINY = (
    "dataset.documents=100 dataset.validation_fraction=0.1 tokenizer.vocab_size=320 model.context_length=32 "
    "model.d_model=16 model.n_layers=2 model.n_heads=4 model.n_kv_heads=2 model.d_ff=32 train.steps=6 "
    "train.batch_size=4 train.micro_batch_size=4 train.validate_every=3 train.val_documents=5 train.log_every=1 "
    "train.accelerator=cpu train.threads=1 evaluate.accelerator=cpu evaluate.threads=1 evaluate.max_new_tokens=8 "
    "tasks.accelerator=cpu tasks.threads=1 "
    "runtime.workers=1 runtime.progress=false"
)
STAGES = ["corpus", "tokenizer", "shards", "train", "evaluate", "export"]
TIMEOUT_SECONDS = 3600 if ALL else 300  # of a hang; beside other work all is slow


class Repository:
    """A Git + DVC repository in its own folder, and the commands that a user types in it."""

    TINY_LM = ("env", "PYTHONPATH=src", "python", "-c", "from tiny_lm.cli import main; main()")
    CUT_SHORT = re.compile(r"dvc\.lock' (validation failed|is invalid)")  # as DVC says of its lock file

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = environment

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command in its own process group, which prints to a file: a pipe would wait for queue workers."""
        descriptor, self.log = tempfile.mkstemp(dir=self.path / ".git")
        with open(descriptor, "w") as file:
            return subprocess.Popen(
                command, cwd=self.path, env=self.environment, start_new_session=True, text=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Waits for the command that was started last. (exit code, what it printed, errors included)"""
        try:
            code = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return code, self.said()

    def said(self) -> str:
        """What the command that was started last has printed so far, those that it started included."""
        return Path(self.log).read_text(encoding="utf-8")

    def is_left_alone(self) -> bool:
        """Whether no process works here, or below, any more."""
        return not processes_in(self.path)

    def run(self, *command: str) -> str:
        """What a command prints that must succeed."""
        code, output = self.end(self.start(*command))
        assert code == 0, f"{' '.join(command)} exited with {code}:\n{output}"
        return output

    def fails(self, *command: str) -> str:
        """What a command prints that must fail, in words and not with a traceback."""
        code, output = self.end(self.start(*command))
        assert code != 0, f"{' '.join(command)} succeeded:\n{output}"
        assert "Traceback" not in output
        return output

    def dvc(self, *arguments: str) -> str:
        return self.run("dvc", *arguments)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def tiny_lm(self, *arguments: str) -> str:
        """The command of the repository's own code, which the installed `tiny-lm` need not be."""
        return self.run(*self.TINY_LM, *arguments)

    def preset(self, *settings: str) -> None:
        """`tiny-lm preset` in this process, which has already imported what it checks params with."""
        with contextlib.chdir(self.path):
            preset.main([*settings])

    def clone(self, name: str, origin: str | None = None) -> Repository:
        """A fresh `git clone` beside this one, with no cache and none of this machine's configuration."""
        self.git("clone", "-q", origin or str(self.path), str(self.path.parent / name))
        return Repository(self.path.parent / name, self.environment)

    def copy(self, name: str, folder: Path | None = None) -> Repository:
        """A copy in `folder`, or beside this one."""
        path = (folder or self.path.parent) / name
        shutil.copytree(self.path, path, symlinks=True)
        return Repository(path, self.environment)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def lock(self) -> dict[str, str]:
        """What dvc.lock records of each output that does not depend on the machine: {path: md5}."""
        stages = read_yaml(self.path / "dvc.lock")["stages"].values()
        outs = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
        return {path: md5 for path, md5 in outs.items() if "hardware" not in path}

    def hashes(self) -> dict[str, str]:
        """The files that the pipeline wrote: {path: md5}."""
        return {
            str(file.relative_to(self.path)): hashlib.md5(file.read_bytes()).hexdigest()
            for folder in ("data", "models", "results")
            for file in sorted((self.path / folder).rglob("*"))
            if file.is_file() and "raw" not in file.parts
        }

    def json(self, *command: str) -> Any:
        """What a command prints as JSON, which ends what it prints."""
        output = self.run(*command)
        return json.loads(output[re.search(r"^[{\[]", output, re.M).start() :])

    def is_clean(self) -> bool:
        return "Data and pipelines are up to date." in self.dvc("status", "dvc.yaml") and not self.git(
            "status", "--short"
        )

    @staticmethod
    def ran(output: str) -> list[str]:
        """The stages whose commands ran, in order."""
        return re.findall(r"^Running stage '(\S+)'", output, re.M)

    @staticmethod
    def wait_for(condition: Callable[[], Any], pause: float = 0.02) -> Any:
        """The first true value of `condition`."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not (value := condition()):
            assert time.monotonic() < end, f"waited for {TIMEOUT_SECONDS} s"
            time.sleep(pause)
        return value


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes that work somewhere in `folder`, queue workers included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who activated the virtual environment, without any personal configuration."""
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text("[init]\n\tdefaultBranch = main\n[user]\n\tname = someone\n\temail = some@one\n")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "GIT_", "PYTHON", "AWS_"))}
    kept = {key: value for key, value in kept.items() if not SETTINGS.fullmatch(key)}  # this process may have set some
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home),
        "DVC_SYSTEM_CONFIG_DIR": str(home),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "someone",
        "GIT_AUTHOR_EMAIL": "some@one",
        "GIT_COMMITTER_NAME": "someone",
        "GIT_COMMITTER_EMAIL": "some@one",
    }


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Repository:
    """The repository that all tests copy and none writes to: everything is built and committed."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # which has a folder of its own in that of the session
        shared = shared.parent
    repository = Repository(shared / "built/repository", environment)
    with (shared / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "built").exists():
            building = Path(tempfile.mkdtemp(dir=shared))
            build(Repository(building / "repository", environment))
            building.rename(shared / "built")
    return repository


def build(repository: Repository) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("dvc.lock", "tasks/dvc.lock", "results/")):
            target = repository.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    (repository.path / "results/tasks").mkdir(parents=True)
    (repository.path / "results/tasks/metrics.json").write_text("{}\n")  # as in Git before the tasks run
    subprocess.run(["git", "init", "-q", str(repository.path)], check=True, env=repository.environment)
    repository.git("add", "-A")
    repository.git("commit", "-qm", "the working tree")
    repository.preset(*TINY.split())
    assert repository.ran(repository.dvc("repro")) == STAGES
    repository.git("add", "-A")
    repository.git("commit", "-qm", "a tiny model")


@pytest.fixture
def repository(built: Repository, tmp_path: Path) -> Iterator[Repository]:
    """A copy to do anything with, its DVC cache included; what still runs in it or beside it is stopped at the end."""
    yield built.copy("repository", tmp_path)
    for process in processes_in(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            process.kill()
        process.wait(10)


@pytest.fixture(scope="session")
def server(built: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(built.environment, built.path / "src", tmp_path_factory.mktemp("server"))
    yield server
    server.process.stdin.close()
    server.process.wait(10)


@pytest.fixture
def bench_in(server: Server, built: Repository) -> Callable[[Path], Bench]:
    def bench_in(folder: Path) -> Bench:
        copy = Repository(folder / "bench", built.environment)
        shutil.copytree(built.path, copy.path, symlinks=True, ignore=lambda *_: {"src", "tests"})
        (copy.path / "src").symlink_to(built.path / "src")
        return Bench(server, copy)

    return bench_in


@pytest.fixture
def bench(bench_in: Callable[[Path], Bench], tmp_path: Path) -> Bench:
    return bench_in(tmp_path)
