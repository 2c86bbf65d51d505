"""Small shards of known tokens: a byte is its own id, and the special ids come after."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tries import Book

from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.shards.format import ShardsMetadata

PAD, EOS, BOS, UNK = 256, 257, 258, 259

# A shell starts a job in the background deaf to Ctrl-C, and nohup one deaf to the end of its terminal; whatever the job
# starts is deaf, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def encode_bytes(texts: Sequence[str]) -> NDArray[np.uint32]:
    return np.array([i for text in texts for i in (BOS, *text.encode(), EOS)], np.uint32)


@pytest.fixture
def book() -> Iterator[Book]:
    """book.note(kind) for each trial."""
    book = Book()
    yield book
    book.close()


@pytest.fixture
def stories() -> Callable[[int], list[str]]:
    """stories(count): texts of 0 to 300 characters, some of them not ASCII."""

    def stories(count: int) -> list[str]:
        rng = np.random.default_rng(count)
        return ["".join(rng.choice(list("abc de\nfé😀"), rng.integers(0, 300))) for _ in range(count)]

    return stories


@pytest.fixture
def stream_of() -> Callable[[Sequence[str]], list[int]]:
    """The tokens that documents should become."""
    return lambda texts: encode_bytes(texts).tolist()


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., ShardsMetadata]:
    """make_shards(train, val) writes shards into tmp_path / "shards"."""

    def make_shards(
        train: Sequence[str],
        val: Sequence[str] = ("a validation text",),
        *,
        folder: str = "shards",
        shard_tokens: int = 1000,
        vocab_size: int = 260,
        workers: int = 2,
        encode: Callable[[Sequence[str]], NDArray[np.uint32]] = encode_bytes,
    ) -> ShardsMetadata:
        return write_shards(
            tmp_path / folder,
            {"train": iter(train), "val": iter(val)},
            encode,
            ShardsParams(shard_tokens=shard_tokens),
            vocab_size=vocab_size,
            special_ids={"pad": PAD, "eos": EOS, "bos": BOS, "unk": UNK},
            tokenizer="ab" * 32,
            workers=workers,
        )

    return make_shards
