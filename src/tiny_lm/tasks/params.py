"""The `tasks` section of params.yaml."""

from dataclasses import dataclass
from typing import Literal

from tiny_lm.io.params import check

EXAM = "tiny_lm_exam"


@dataclass(frozen=True, kw_only=True)
class TasksParams:
    """What lm-evaluation-harness runs on the exported model."""

    names: tuple[str, ...] = (EXAM,)  # tasks, groups and tags, as `lm_eval ls` lists them; tiny_lm_exam: docs/exam.md
    limit: int | None = None  # the first questions of each task, for a quick look; null: all
    batch_size: int = 32
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA if available, else the CPU
    threads: int = 2  # CPU threads

    def __post_init__(self) -> None:
        check(len(self.names) > 0, "names", list(self.names), "one name or more")
        check(len(set(self.names)) == len(self.names), "names", list(self.names), "different from each other")
        check(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1, or null")
        check(1 <= self.batch_size <= 65536, "batch_size", self.batch_size, "between 1 and 65536")
        check(1 <= self.threads <= 1024, "threads", self.threads, "between 1 and 1024")
