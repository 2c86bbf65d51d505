"""Encodes documents into shards: threads encode batches of documents, which are written in order.

The bytes do not depend on the number of threads, and memory holds only a few batches. The tokenizer is passed in as a
function.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tiny_lm.encoding.writer import SplitWriter, make_metadata, write_metadata
from tiny_lm.io.params import check
from tiny_lm.shards.format import LENGTHS, SPLITS, ShardsMetadata, Split

Encode = Callable[[Sequence[str]], NDArray[np.uint32]]  # documents → `<bos> document <eos> <bos> …`; runs in threads
Batch = tuple[NDArray[np.uint32], NDArray[np.int64]]  # tokens, and (documents, 3) lengths as in LENGTHS

MAX_SHARDS = 100_000  # per split: names have five digits, so that they sort in the order of the tokens
_BATCH_CHARACTERS = 1 << 18
_BATCH_DOCUMENTS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class ShardsParams:
    shard_tokens: int = 50_000_000  # per .bin file (100 MB as uint16); appended text changes the last file only

    def __post_init__(self) -> None:
        check(1000 <= self.shard_tokens <= 2**31, "shard_tokens", self.shard_tokens, "between 1000 and 2^31")

    def check_split(self, name: str, documents: int, text_bytes: int) -> None:
        """Raises ValueError, before anything is encoded, if a split could need more than MAX_SHARDS files."""
        max_tokens = text_bytes + 2 * documents  # at most one per byte, <bos> and <eos>
        least = -(-max_tokens // MAX_SHARDS)
        allowed = f"at least {least}: the {text_bytes} bytes of {name} could need more than {MAX_SHARDS} files"
        check(self.shard_tokens >= least, "shards.shard_tokens", self.shard_tokens, allowed)


def write_shards(
    folder: Path,
    documents: Mapping[str, Iterable[str]],
    encode: Encode,
    params: ShardsParams,
    *,
    vocab_size: int,
    special_ids: Mapping[str, int],
    tokenizer: str,
    workers: int,
    progress: bool = False,
) -> ShardsMetadata:
    """Writes the documents of `train` and `val` into `folder`, in the format of `shards/format.py`.

    `special_ids` are those of `pad`, `eos`, `bos` and `unk`; `tokenizer` is the tokenizer's digest. Raises
    ValueError if a split is empty.
    """
    assert documents.keys() == set(SPLITS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").unlink(missing_ok=True)
    splits: dict[str, Split] = {}
    for name in SPLITS:
        bar = tqdm(documents[name], f"shards {name}", unit=" documents", disable=not progress)
        with (
            SplitWriter(folder, name, vocab_size, special_ids["bos"], params.shard_tokens) as writer,
            ThreadPoolExecutor(workers) as pool,
        ):
            for tokens, lengths in _encoded(pool, encode, special_ids["eos"], batches(bar), 2 * workers):
                writer.write(tokens, lengths)
            splits[name] = writer.finish()
    metadata = make_metadata(vocab_size, special_ids, tokenizer, splits)
    write_metadata(folder, metadata)
    return metadata


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encoded(
    pool: ThreadPoolExecutor, encode: Encode, eos_id: int, batches: Iterable[list[str]], ahead: int
) -> Iterator[Batch]:
    """Yields the encoded batches in order. Reads at most `ahead` batches ahead, so that memory stays constant."""
    pending: deque[Future[Batch]] = deque()
    for batch in batches:
        pending.append(pool.submit(encode_batch, encode, eos_id, batch))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def encode_batch(encode: Encode, eos_id: int, texts: list[str]) -> Batch:
    tokens = encode(texts)
    ends = np.flatnonzero(tokens == eos_id) + 1
    assert len(ends) == len(texts), "every document ends with <eos> and contains no other"
    lengths = np.empty((len(texts), len(LENGTHS)), np.int64)
    lengths[:, 0] = np.diff(ends, prepend=0)
    lengths[:, 1] = [len(text) for text in texts]
    lengths[:, 2] = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    return tokens, lengths
