"""Copy the first tokens of the shards into new, smaller shards.

The subset contains as many whole documents of the training split as fit into --tokens, and the validation split, or as
much of it as fits into --val-tokens. It is verified before it is moved to --output. Memory use does not depend on the
size of the shards. How to train on a subset: docs/tools.md
"""

from __future__ import annotations

import json
import math
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

CHUNK_TOKENS, CHUNK_DOCUMENTS = 1 << 21, 1 << 16  # copied at a time, at most


def main(argv: list[str]) -> None:
    parser = Parser("subset", __doc__, "--tokens 1M --output ../small-shards")
    parser.add_argument("--tokens", type=amount, required=True, metavar="N", help="for training, e.g. 500K, 1M or 2.5G")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="a new folder")
    parser.add_argument("--val-tokens", type=amount, metavar="N", help="for validation; default: all")
    parser.add_argument("--shards", type=Path, metavar="DIR", default="data/shards", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    metadata = write_subset(args.shards, args.output, {"train": args.tokens, "val": args.val_tokens})
    if args.json:
        print(json.dumps(asdict(metadata), indent=2))
        return
    bytes_ = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(
        f"{args.output}: {metadata.train.tokens:,} training tokens in {metadata.train.documents:,} documents, "
        f"{metadata.val.tokens:,} validation tokens in {metadata.val.documents:,} documents; {size(bytes_)}, verified"
    )


def write_subset(shards: Path, output: Path, limits: dict[str, int | None]) -> ShardsMetadata:
    """Writes the folder `output` with at most `limits` tokens of each split (None: all), or nothing if it fails."""
    from tiny_lm.encoding.writer import write_metadata
    from tiny_lm.runner.verify import verify_shards
    from tiny_lm.shards.stream import TokenStream

    if output.name in ("", ".."):
        raise ValueError(f"--output {output}: must end in the name of a new folder")
    if output.exists() or output.is_symlink():
        raise ValueError(f"--output {output}: already exists; name a new folder")
    if output.resolve().is_relative_to(shards.resolve()):
        raise ValueError(f"--output {output}: must be outside of {shards}, which DVC tracks")
    streams = {name: TokenStream(shards, name) for name in limits}
    for name, stream in streams.items():
        _check_limit(stream, limits[name])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        draft = Path(temporary) / output.name
        train, val = (_copy(draft, streams[name], limits[name] or math.inf) for name in ("train", "val"))
        write_metadata(draft, replace(streams["train"].metadata, train=train, val=val))
        try:
            metadata = verify_shards(draft)
        except ValueError as error:
            raise ValueError(f"{shards} is damaged: {error}") from None
        os.rename(draft, output)
    return metadata


def _check_limit(stream: TokenStream, limit: int | None) -> None:
    """ValueError if the split has fewer tokens than `limit`, or if not even its first document fits."""
    if limit is None:
        return
    option = "--tokens" if stream.name == "train" else "--val-tokens"
    if limit > len(stream):
        raise ValueError(f"{option} {limit:,}: {stream.folder / stream.name} has only {len(stream):,}")
    if limit < stream.lengths[0, 0]:
        raise ValueError(f"{option} {limit:,}: the first document alone has {stream.lengths[0, 0]:,}")


def _copy(folder: Path, stream: TokenStream, limit: float) -> Split:
    """Copies the first documents of a split to `folder`, into files of the same size as the original ones."""
    from tiny_lm.encoding.writer import SplitWriter
    from tiny_lm.shards.format import REMEDY

    metadata, shard_tokens = stream.metadata, max(shard.tokens for shard in stream.split.shards)
    with SplitWriter(folder, stream.name, metadata.vocab_size, metadata.bos_id, shard_tokens) as writer:
        position = 0
        for lengths in _chunks(stream, limit):
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


def _chunks(stream: TokenStream, limit: float) -> Iterator[Any]:
    """The lengths of the first documents, as many as fit into `limit` tokens, in chunks: (n, 3) int64."""
    first = position = 0
    while first < stream.split.documents:
        lengths = stream.lengths[first : first + CHUNK_DOCUMENTS].astype("int64")
        ends = position + lengths[:, 0].cumsum()
        count = max(1, int((ends <= position + CHUNK_TOKENS).sum()))  # a longer document is a chunk by itself
        count = min(count, int((ends <= limit).sum()))
        if not count:
            return
        yield lengths[:count]
        first, position = first + count, int(ends[count - 1])
