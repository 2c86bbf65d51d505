"""Document sources by name: the choices of `dataset.source`."""

from tiny_lm.corpus.sources.base import DatasetParams
from tiny_lm.corpus.sources.huggingface import HuggingFaceParams
from tiny_lm.corpus.sources.local import LocalParams
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.sources.url import UrlParams

SOURCES: dict[str, type[DatasetParams]] = {
    "stories": StoriesParams,
    "huggingface": HuggingFaceParams,
    "local": LocalParams,
    "url": UrlParams,
}
