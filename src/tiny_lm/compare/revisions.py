"""Reads files and dvc.lock of a revision: a commit, branch, tag, experiment, or `workspace`.

DVC reads the files, from Git, its cache or a remote, like its own commands do. So the project may be a subfolder of a
Git repository.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dvc.api import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import RevError

from tiny_lm.io.params import flat, parse_yaml
from tiny_lm.runner import dvc_lock
from tiny_lm.runner.git import git


class MissingFile(ValueError):
    """The revision does not have the file, or its content is neither in the cache nor on a remote."""


@dataclass(frozen=True)
class LockedStage:
    """A stage as dvc.lock records it."""

    params: dict[str, Any]  # flat: "train.seed": 1
    deps: dict[str, str]  # path: MD5; "" if DVC records another kind of hash
    outs: dict[str, str]


class Stages(dict[str, LockedStage]):
    """The stages that ran, by name, in the order in dvc.lock."""

    @property
    def params(self) -> dict[str, Any]:
        return {key: value for stage in self.values() for key, value in stage.params.items()}

    @property
    def outs(self) -> dict[str, str]:
        return {path: md5 for stage in self.values() for path, md5 in stage.outs.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """{path: MD5} of code, and of data that no stage writes."""
        deps = {path: md5 for stage in self.values() for path, md5 in stage.deps.items()}
        return {path: md5 for path, md5 in deps.items() if self.maker(path) is None}

    def only(self, names: Container[str]) -> Stages:
        return Stages({name: stage for name, stage in self.items() if name in names})

    def maker(self, path: str) -> str | None:
        """The stage that writes this file or folder, as an output or inside of one."""
        made = ((name, out) for name, stage in self.items() for out in stage.outs)
        return next((name for name, out in made if PurePosixPath(path).is_relative_to(out)), None)

    def outdated(self) -> dict[str, str]:
        """{name: reason} of stages that have not run since another stage changed an output that is an input of theirs.

        A file inside an output is not compared, because dvc.lock has no checksum of it.
        """
        outs = self.outs
        return {
            name: f"{name} has not run since {path} changed"
            for name, stage in self.items()
            for path, md5 in stage.deps.items()
            if outs.get(path, md5) != md5
        }


class Revision:
    """Raises ValueError, in one line: MissingFile for a missing file, else the message of Git, DVC, the remote or the
    file system.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            if name == "workspace":
                self._files = DVCFileSystem(".")
            else:
                repo = Repo(".")
                self._switch = repo.switch(name or "(empty)")
                self._switch.__enter__()  # for as long as this object lives
                self._files = repo.dvcfs
        except RevError:
            self._check_git()
            raise ValueError(
                f"{name}: no such commit, branch, tag or experiment; `dvc exp show` lists experiments"
            ) from None
        except Exception as error:
            raise self._failure(error) from error

    def read(self, path: str, remedy: str) -> str:
        """The text of a file. If it is missing, `remedy` completes the error message."""
        try:
            data: bytes = self._files.read_bytes(path)
            return data.decode()
        except Exception as error:
            if isinstance(_root(error), FileNotFoundError):
                raise MissingFile(f"{self.name}: {path} {remedy}") from error
            raise self._failure(error, path) from error

    def read_output(self, path: str, md5: str, remedy: str) -> str:
        """The text of a file whose checksum must be `md5`, the one in dvc.lock."""
        text = self.read(path, remedy)
        if dvc_lock.md5(text.encode()) != md5:
            raise ValueError(f"{self.name}: {path} does not match dvc.lock; run `dvc repro`")
        return text

    def stages(self) -> Stages:
        text = self.read("dvc.lock", "is missing, so no stage has run there; run `dvc repro`")
        try:
            return Stages(
                {
                    name: LockedStage(
                        params=dict(flat(stage.get("params", {}).get("params.yaml", {}))),
                        deps={dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])},
                        outs={out["path"]: out["md5"] for out in stage.get("outs", []) if "md5" in out},
                    )
                    for name, stage in parse_yaml(text, "dvc.lock")["stages"].items()
                }
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{self.name}: dvc.lock is damaged; `git checkout dvc.lock` restores it") from None

    def _check_git(self) -> None:
        """Raises the error of Git if HEAD or this revision is unreadable, which DVC reports as an unknown revision."""
        git("log", "-1", "--format=%H")
        try:
            git("rev-parse", "--verify", "--quiet", self.name)
        except ValueError:
            return
        git("log", "-1", "--format=%H", self.name)

    def _failure(self, error: Exception, path: str = "") -> ValueError:
        if self.name != "workspace":
            git("rev-parse", "--git-dir")  # if this fails too, Git's message has the remedy
        text = " ".join(str(_root(error)).split()) or type(error).__name__
        return ValueError(f"{': '.join(filter(None, (self.name, path)))}: {text}")


def _root(error: BaseException) -> BaseException:
    """The original cause of an error of DVC, such as an error of the remote."""
    while error.__cause__ and not isinstance(error, OSError):
        error = error.__cause__
    return error
