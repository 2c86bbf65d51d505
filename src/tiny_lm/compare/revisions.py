"""The files and the recorded stages of a revision: a commit, branch, tag or experiment, or `workspace`.

Files come from Git, from DVC's cache or from a remote. DVC reads them as its own commands do, so a project may be a
subfolder of a Git repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dvc.api import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import RevError

from tiny_lm.io.params import flat, parse_yaml
from tiny_lm.runner import dvc_lock
from tiny_lm.runner.git import git


class MissingFile(ValueError):
    """A revision does not have this file, or neither the cache nor a remote has its content."""


@dataclass(frozen=True)
class LockedStage:
    """A stage as dvc.lock records it."""

    params: dict[str, Any]  # flat: "train.seed": 1
    deps: dict[str, str]  # path: MD5; "" if DVC records another kind of hash
    outs: dict[str, str]


class Revision:
    """Reads a revision. Each failure is a ValueError of one line: a missing file is a MissingFile, and a failure of
    Git, DVC, a remote or the file system is reported in its own words.
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
        """The text of a file. If it is missing, the error ends with `remedy`."""
        try:
            data: bytes = self._files.read_bytes(path)
            return data.decode()
        except Exception as error:
            if isinstance(_root(error), FileNotFoundError):
                raise MissingFile(f"{self.name}: {path} {remedy}") from error
            raise self._failure(error, path) from error

    def read_output(self, path: str, md5: str, remedy: str) -> str:
        """The text of a file. ValueError unless its checksum is the one in dvc.lock."""
        text = self.read(path, remedy)
        if dvc_lock.md5(text.encode()) != md5:
            raise ValueError(f"{self.name}: {path} is not the file that dvc.lock records; run `dvc repro`")
        return text

    def stages(self) -> dict[str, LockedStage]:
        """The stages that ran, in the order of dvc.lock."""
        text = self.read("dvc.lock", "is missing, so no stage has run there; run `dvc repro`")
        try:
            return {
                name: LockedStage(
                    params=dict(flat(stage.get("params", {}).get("params.yaml", {}))),
                    deps={dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])},
                    outs={out["path"]: out["md5"] for out in stage.get("outs", []) if "md5" in out},
                )
                for name, stage in parse_yaml(text, "dvc.lock")["stages"].items()
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{self.name}: dvc.lock is damaged; `git checkout dvc.lock` restores it") from None

    def _check_git(self) -> None:
        """Raises Git's error if this revision or HEAD exists but cannot be read, since DVC reports both as unknown."""
        git("log", "-1", "--format=%H")
        try:
            git("rev-parse", "--verify", "--quiet", self.name)
        except ValueError:
            return
        git("log", "-1", "--format=%H", self.name)

    def _failure(self, error: Exception, path: str = "") -> ValueError:
        if self.name != "workspace":
            git("rev-parse", "--git-dir")  # if Git refuses too, its message contains the remedy
        text = " ".join(str(_root(error)).split()) or type(error).__name__
        return ValueError(f"{': '.join(filter(None, (self.name, path)))}: {text}")


def _root(error: BaseException) -> BaseException:
    """What DVC's error was raised from, such as an error of a remote."""
    while error.__cause__ and not isinstance(error, OSError):
        error = error.__cause__
    return error
