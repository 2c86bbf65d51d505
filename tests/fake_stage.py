"""The stage context that the runner passes to the first three stages, without DVC."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params


class FakeStage:
    runtime = SimpleNamespace(workers=2, progress=False)
    data: tuple[Path, ...] = ()

    def __init__(self, **sections: Any) -> None:
        self.sections = sections

    def section(self, name: str, choices: Any) -> Any:
        return load_params(name, self.sections[name], choices)

    def executor(self) -> Any:
        return nullcontext(InProcess())

    def say(self, line: str) -> None: ...
