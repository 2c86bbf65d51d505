"""`tiny-lm tokenize`: shows how a text is split into tokens, and how well it compresses.

The text is the argument, a file, or standard input. Tokens have colors on a terminal and are separated by `·`
elsewhere. Bytes of an incomplete character are shown as `\\xc3`. Names of special tokens in a text are ordinary text,
as in training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tiny_lm.terminal import Parser, add_color, show_tokens, visible, wants_color


def main(argv: list[str]) -> None:
    parser = Parser("tokenize", __doc__, '"Once upon a time, there was a café." --ids')
    parser.add_argument("text", nargs="?", help="the text; without it and --file, standard input")
    parser.add_argument("--file", type=Path, help="a text file in UTF-8")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", default=Path("models/tokenizer"), help="default: models/tokenizer"
    )
    parser.add_argument("--ids", action="store_true", help="one token per line, with its id")
    add_color(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.file and args.text is not None:
        raise ValueError(f"--file {args.file}: give a text or a file, not both")
    text = read_text(args.text, args.file)

    from tiny_lm.tokenizer.encode import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer)
    ids = tokenizer.encode(text).tolist()
    facts = compression(text, len(ids))
    if args.json:
        print(json.dumps({**facts, "ids": ids, "token_texts": [visible(tokenizer.decode_bytes([i])) for i in ids]}))
        return
    if ids:
        print(show_tokens(tokenizer, ids, each=args.ids, color=wants_color(args.color)) + "\n")
    print(f"{facts['tokens']:,} tokens, {facts['characters']:,} characters, {facts['bytes']:,} bytes")
    if ids:
        print(f"{facts['bytes_per_token']:.2f} bytes and {facts['characters_per_token']:.2f} characters per token")


def read_text(text: str | None, file: Path | None) -> str:
    if text is not None:
        return text
    try:
        return (file.read_bytes() if file else sys.stdin.buffer.read()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'standard input'}: not UTF-8 at byte {error.start}") from None


def compression(text: str, tokens: int) -> dict[str, Any]:
    size = len(text.encode())
    return {
        "tokens": tokens,
        "characters": len(text),
        "bytes": size,
        "bytes_per_token": size / tokens if tokens else None,
        "characters_per_token": len(text) / tokens if tokens else None,
    }
