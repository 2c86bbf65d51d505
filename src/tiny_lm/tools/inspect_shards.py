"""Show statistics of the shards, or with --document, documents token by token as training reads them.

Tokens have alternating colors on a terminal and are separated by `·` otherwise. Only the tokens of the documents shown
are read, however large the shards are.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_lm.terminal import Parser, add_color, amount, show_tokens, size, visible, wants_color

if TYPE_CHECKING:
    from tiny_lm.shards.format import ShardsMetadata
    from tiny_lm.shards.stream import TokenStream

VERIFIED = "all files match their checksums"


def main(argv: list[str]) -> None:
    parser = Parser("inspect-shards", __doc__, "--split train --document 17 --count 3")
    parser.add_argument("--shards", type=Path, metavar="DIR", default="data/shards", help="default: %(default)s")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", default="models/tokenizer", help="default: %(default)s"
    )
    parser.add_argument("--split", choices=("train", "val"), help="of the document; default: train")
    parser.add_argument("--document", type=int, metavar="N", help="the first document to show, counted from 0")
    parser.add_argument("--count", type=amount, metavar="N", help="how many documents to show; default: 1")
    parser.add_argument("--ids", action="store_true", help="one token per line, with its id")
    parser.add_argument("--verify", action="store_true", help="compare all files with their checksums")
    add_color(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.document is None and (args.split or args.count or args.ids):
        raise ValueError("--split, --count and --ids need --document, the number of the first document to show")

    from tiny_lm.runner.verify import verify_shards
    from tiny_lm.shards.format import SPLITS, read_metadata
    from tiny_lm.shards.stream import TokenStream

    metadata = verify_shards(args.shards) if args.verify else read_metadata(args.shards)
    streams = {name: TokenStream(args.shards, name) for name in SPLITS}  # checks the sizes of the files
    if args.document is None:
        print(json.dumps(asdict(metadata), indent=2) if args.json else format_metadata(metadata, args.verify))
        return

    from tiny_lm.tokenizer.encode import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer)
    if tokenizer.digest != metadata.tokenizer:
        raise ValueError(
            f"{args.shards} was encoded with tokenizer {metadata.tokenizer[:12]}, but {args.tokenizer} is "
            f"{tokenizer.digest[:12]}; run `dvc repro shards`"
        )
    split = args.split or "train"
    documents = read_documents(streams[split], args.document, args.count or 1)
    if args.json:
        for document in documents:
            document["token_texts"] = [visible(tokenizer.decode_bytes([i])) for i in document["ids"]]
        print(json.dumps(documents))
        return
    color = wants_color(args.color)
    for document in documents:
        print(
            f"{split} {document['document']:,}: {len(document['ids']):,} tokens from position "
            f"{document['start']:,}, {document['characters']:,} characters, {document['bytes']:,} bytes"
        )
        print(show_tokens(tokenizer, document["ids"], each=args.ids, color=color) + "\n")
    if args.verify:
        print(VERIFIED)


def read_documents(stream: TokenStream, first: int, count: int) -> list[dict[str, Any]]:
    """`count` documents from number `first`, with their positions in the stream. ValueError if they do not exist, or if
    lengths.bin does not match the tokens.
    """
    if not 0 <= first <= stream.split.documents - count:
        raise ValueError(
            f"--document {first} --count {count}: {stream.folder / stream.name} has {stream.split.documents:,} "
            f"documents, 0 to {stream.split.documents - 1:,}"
        )
    start = int(stream.lengths[:first, 0].sum(dtype="int64"))
    documents = []
    for index, (tokens, characters, bytes_) in enumerate(stream.lengths[first : first + count].tolist(), first):
        ids = stream.read(start, start + tokens).tolist() if start + tokens <= len(stream) else []
        if len(ids) < 2 or (ids[0], ids[-1]) != (stream.metadata.bos_id, stream.metadata.eos_id):
            raise ValueError(
                f"{stream.folder / stream.name}: document {index} does not start with <bos> and end with <eos>, so the "
                "shards are damaged; --verify shows which file"
            )
        documents.append({"document": index, "start": start, "characters": characters, "bytes": bytes_, "ids": ids})
        start += tokens
    return documents


def format_metadata(metadata: ShardsMetadata, verified: bool) -> str:
    lines = [f"vocabulary {metadata.vocab_size:,}, {metadata.dtype}, tokenizer {metadata.tokenizer[:12]}"]
    width = 2 if metadata.dtype == "uint16" else 4
    for name, split in (("train", metadata.train), ("val", metadata.val)):
        text = split.tokens - 2 * split.documents  # without <bos> and <eos>
        per_token = f", {split.bytes / text:.2f} bytes per token of text" if text else ""
        lengths = split.document_tokens
        lines += [
            f"\n{name}",
            f"  {split.tokens:,} tokens, {split.documents:,} documents, {split.characters:,} characters, "
            f"{split.bytes:,} bytes{per_token}",
            f"  {lengths.min:,} to {lengths.max:,} tokens per document, {lengths.mean:,} on average",
        ]
        for shard in split.shards:
            count = f"{shard.tokens:,} tokens, {size(width * shard.tokens)}"
            lines.append(f"  {shard.file}  {count}, {shard.documents:,} documents start in it")
    return "\n".join([*lines, f"\n{VERIFIED}"] if verified else lines)
