"""What a revision holds: a commit, branch, tag or experiment, or `workspace`; from Git, DVC's cache or a remote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dvc.api import DVCFileSystem
from dvc.scm import RevError

from tiny_lm.config import flat, parse_yaml


@dataclass(frozen=True)
class LockedStage:
    """A stage as dvc.lock records it."""

    params: dict[str, Any]  # flat: "train.seed": 1
    deps: dict[str, str]  # path: hash of its content; "" where DVC keeps another kind of hash
    outs: dict[str, str]


class Revision:
    """The files of a revision, and the stages that ran there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._files = DVCFileSystem(".", rev=None if name == "workspace" else name or "(empty)")

    def read(self, path: str, otherwise: str) -> str:
        """The text of a file; ValueError, in one line that ends with `otherwise`, where it cannot be had."""
        try:
            text: str = self._files.read_text(path, encoding="utf-8")
            return text
        except RevError:
            raise ValueError(
                f"{self.name}: no such commit, branch, tag or experiment; `dvc exp show` lists experiments"
            ) from None
        except Exception as error:  # DVC and remotes say in many ways that a file is not there
            raise ValueError(f"{self.name}: {path}: {otherwise}") from error

    def stages(self) -> dict[str, LockedStage]:
        """The stages that ran, in the order of dvc.lock. ValueError, in one line."""
        text = self.read("dvc.lock", "no stage was run there; `dvc repro` runs them")
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
            raise ValueError(
                f"{self.name}: dvc.lock is not one that DVC wrote; `git checkout dvc.lock` brings it back"
            ) from None
