"""Show how a text is split into tokens, and how well it compresses.

The text is the argument, a file, or standard input. Tokens have alternating colors on a terminal and are separated by
`·` otherwise. Bytes of an incomplete character are shown as `\\xc3`. Names of special tokens, such as <eos>, are
ordinary text, as in training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tiny_lm.terminal import Parser, add_color, show_tokens, visible, wants_color


def main(argv: list[str]) -> None:
    parser = Parser("tokenize", __doc__, '"Once upon a time, there was a café." --ids')
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", nargs="?", help="default: standard input")
    source.add_argument("--file", type=Path, help="a text file in UTF-8")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", default="models/tokenizer", help="default: %(default)s"
    )
    parser.add_argument("--ids", action="store_true", help="one token per line, with its id")
    add_color(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    text = args.text if args.text is not None else _read_text(args.file)

    from tiny_lm.tokenizer.encode import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer)
    ids = tokenizer.encode(text).tolist()
    tokens, characters, bytes_ = len(ids), len(text), len(text.encode())
    if args.json:
        facts = {
            "tokens": tokens,
            "characters": characters,
            "bytes": bytes_,
            "bytes_per_token": bytes_ / tokens if tokens else None,
            "characters_per_token": characters / tokens if tokens else None,
            "ids": ids,
            "token_texts": [visible(tokenizer.decode_bytes([i])) for i in ids],
        }
        print(json.dumps(facts))
        return
    if ids:
        print(show_tokens(tokenizer, ids, each=args.ids, color=wants_color(args.color)) + "\n")
    print(f"{tokens:,} tokens, {characters:,} characters, {bytes_:,} bytes")
    if ids:
        print(f"{bytes_ / tokens:.2f} bytes and {characters / tokens:.2f} characters per token")


def _read_text(file: Path | None) -> str:
    try:
        return (file.read_bytes() if file else sys.stdin.buffer.read()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'standard input'}: not UTF-8 at byte {error.start}") from None
