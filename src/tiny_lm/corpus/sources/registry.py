"""Document sources by name: the choices of `dataset.source`."""

from collections.abc import Iterator
from dataclasses import replace

from tqdm import tqdm

from tiny_lm.corpus.sources.base import DatasetParams, Source
from tiny_lm.corpus.sources.huggingface import HuggingFaceParams
from tiny_lm.corpus.sources.local import LocalParams
from tiny_lm.corpus.sources.stories import StoriesParams

SOURCES: dict[str, type[DatasetParams]] = {
    "stories": StoriesParams,
    "huggingface": HuggingFaceParams,
    "local": LocalParams,
}


def open_source(params: DatasetParams, progress: bool = False) -> Source:
    """Opens a source, with progress bars around its streams."""
    source = params.open(progress)

    def bar(documents: Iterator[str], name: str, total: int | None) -> Iterator[str]:
        yield from tqdm(documents, name, total, unit=" documents", disable=not progress)

    train = bar(source.train, "training documents" if source.val else "documents", source.total)
    return replace(source, train=train, val=bar(source.val, "validation documents", None) if source.val else None)
