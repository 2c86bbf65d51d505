"""Stories from the built-in generator."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tiny_lm.corpus.sources.base import DatasetParams, Source
from tiny_lm.executor import Executor
from tiny_lm.io.params import check
from tiny_lm.stories.generator import VERSION, Story, story

STORIES_IN_PART = 2000


@dataclass(frozen=True)
class Stories:
    """The stories first, first + 1, …, end - 1."""

    seed: int
    first: int
    end: int

    def read(self) -> Iterator[Story]:
        return (story(self.seed, index) for index in range(self.first, self.end))


@dataclass(frozen=True, kw_only=True)
class StoriesParams(DatasetParams):
    source: Literal["stories"] = "stories"  # stories | huggingface | local | url | mixture
    seed: int = 0  # for the stories, and for validation: random
    # random: by a hash of seed and text; tail: the last part, in order
    validation: Literal["random", "tail"] = "random"
    documents: int = 30_000  # about 16 MB, 523 characters each

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.documents >= 2, "documents", self.documents, "2 or more (training and validation)")

    def open(self, progress: bool, executor: Executor) -> Source:
        provenance = {"source": "stories", "generator_version": VERSION, "seed": self.seed, "documents": self.documents}
        parts = (
            Stories(self.seed, first, min(first + STORIES_IN_PART, self.documents))
            for first in range(0, self.documents, STORIES_IN_PART)
        )
        return Source(parts, None, self.documents, provenance)
