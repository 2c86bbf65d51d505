"""`tiny-lm subset`: copies the first tokens of the shards into new, smaller shards.

It takes as many whole documents of the training split as fit into --tokens, and the whole validation split, or as much
of it as fits into --val-tokens. The copy is verified before it appears in its place. Memory use does not grow with the
size of the shards. How to train on the copy: docs/tools.md
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_lm.terminal import Parser, amount, size

if TYPE_CHECKING:
    from tiny_lm.shards.format import ShardsMetadata, Split
    from tiny_lm.shards.stream import TokenStream

CHUNK = 1 << 21  # tokens copied at a time
ROWS = 1 << 16  # documents whose lengths are read at a time


def main(argv: list[str]) -> None:
    parser = Parser("subset", __doc__, "--tokens 1M --output ../small-shards")
    parser.add_argument("--tokens", type=amount, required=True, help="at most this many for training: 500K, 1M, 2.5G")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="a new folder")
    parser.add_argument("--val-tokens", type=amount, help="at most this many for validation; default: all")
    parser.add_argument("--shards", type=Path, metavar="DIR", default=Path("data/shards"), help="default: data/shards")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    metadata = write_subset(args.shards, args.output, {"train": args.tokens, "val": args.val_tokens})
    if args.json:
        print(json.dumps(asdict(metadata), indent=2))
        return
    bytes_ = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(
        f"{args.output}: {metadata.train.tokens:,} tokens in {metadata.train.documents:,} documents for training, "
        f"{metadata.val.tokens:,} in {metadata.val.documents:,} for validation; {size(bytes_)}, verified"
    )


def write_subset(shards: Path, output: Path, limits: dict[str, int | None]) -> ShardsMetadata:
    """Writes the folder `output` with at most `limits` tokens of each split (None: all), or nothing if it fails."""
    from tiny_lm.encoding.writer import write_metadata
    from tiny_lm.runner.verify import verify_shards
    from tiny_lm.shards.stream import TokenStream

    if output.name in ("", ".."):
        raise ValueError(f"--output {output}: must end in the name of the new folder")
    if output.exists() or output.is_symlink():
        raise ValueError(f"--output {output}: exists already; name a new folder")
    if output.resolve().is_relative_to(shards.resolve()):
        raise ValueError(f"--output {output}: must be outside of {shards}, which DVC keeps")
    streams = {name: TokenStream(shards, name) for name in limits}
    documents = {name: whole_documents(stream, limits[name]) for name, stream in streams.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        draft = Path(temporary) / output.name
        train, val = (_copy(draft, streams[name], documents[name]) for name in ("train", "val"))
        write_metadata(draft, replace(streams["train"].metadata, train=train, val=val))
        try:
            metadata = verify_shards(draft)
        except ValueError as error:
            raise ValueError(f"{shards} is damaged: {error}") from None
        os.rename(draft, output)
    return metadata


def whole_documents(stream: TokenStream, limit: int | None) -> int:
    """How many documents from the first one fit into `limit` tokens. ValueError if none does, or if there are fewer."""
    option = "--tokens" if stream.name == "train" else "--val-tokens"
    if limit is None:
        return stream.split.documents
    if limit > len(stream):
        raise ValueError(f"{option} {limit:,}: {stream.folder / stream.name} has only {len(stream):,}")
    documents = tokens = 0
    for start in range(0, stream.split.documents, ROWS):
        ends = tokens + stream.lengths[start : start + ROWS, 0].cumsum(dtype="int64")
        documents += int((ends <= limit).sum())
        tokens = int(ends[-1])
        if tokens > limit:
            break
    if not documents:
        raise ValueError(f"{option} {limit:,}: the first document alone has {stream.lengths[0, 0]:,}")
    return documents


def _copy(folder: Path, stream: TokenStream, documents: int) -> Split:
    """Writes the first documents of a split below `folder`, in files of the same size as the original's."""
    from tiny_lm.encoding.writer import SplitWriter
    from tiny_lm.shards.format import REMEDY

    metadata, shard_tokens = stream.metadata, max(shard.tokens for shard in stream.split.shards)
    with SplitWriter(folder, stream.name, metadata.vocab_size, metadata.bos_id, shard_tokens) as writer:
        position = 0
        for lengths in _chunks(stream, documents):
            end = position + int(lengths[:, 0].sum())
            if end > len(stream) or lengths[:, 0].min() < 2:
                raise ValueError(f"{stream.folder / stream.name / 'lengths.bin'}: is damaged; {REMEDY}")
            tokens = stream.read(position, end)
            starts = lengths[:, 0].cumsum() - lengths[:, 0]
            if (tokens[starts] != metadata.bos_id).any() or int(tokens.max()) >= metadata.vocab_size:
                raise ValueError(f"{stream.folder / stream.name}: is damaged near token {position:,}; {REMEDY}")
            writer.write(tokens, lengths)
            position = end
        return writer.finish()


def _chunks(stream: TokenStream, documents: int) -> Iterator[Any]:
    """The lengths of the documents, (n, 3) int64, for at most a few million tokens at a time."""
    first = 0
    while first < documents:
        lengths = stream.lengths[first : min(first + ROWS, documents)].astype("int64")
        count = max(1, int((lengths[:, 0].cumsum() <= CHUNK).sum()))
        yield lengths[:count]
        first += count
