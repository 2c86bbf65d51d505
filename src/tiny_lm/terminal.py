"""Command-line helpers for the tools: argument parser, amounts, colors, and visible token boundaries."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import NoReturn, Protocol

AMOUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
COLORS = (153, 223, 157, 218, 189)  # alternating background colors of tokens, from the 256-color palette
SPECIAL = "\x1b[7m"  # inverted colors


class Decoder(Protocol):
    """The part of a tokenizer that `show_tokens` uses."""

    @property
    def ranks(self) -> dict[bytes, int]: ...  # without special tokens

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class Parser(argparse.ArgumentParser):
    """Its help ends with an example, and its errors are ValueErrors, which become one line and exit code 1."""

    def __init__(self, tool: str, description: str | None, example: str) -> None:
        super().__init__(
            prog=f"tiny-lm {tool}",
            description=description,
            epilog=f"example: tiny-lm {tool} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def add_color(parser: Parser) -> None:
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto",
        help="default: auto, which is on a terminal unless NO_COLOR is set",
    )  # fmt: skip


def wants_color(choice: str) -> bool:
    return choice == "always" or (choice == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def amount(text: str) -> int:
    """Parses `1500`, `1.5K` or `8GB`, in powers of 1000, into a whole number of at least 1."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([KMGT]?)B?", text.strip(), re.I | re.ASCII)
    count = Fraction(match[1]) * AMOUNTS[match[2].upper()] if match else Fraction(0)
    if not 1 <= count < 1 << 62 or count.denominator != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be an amount such as 5000, 20K or 1.5M, and at least 1")
    return int(count)


def size(count: float) -> str:
    """1234567 → "1.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < (999.5 if unit == "bytes" else 999.95):  # below what rounds to 1000
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def visible(token: bytes) -> str:
    """A token as printable text. Bytes of an incomplete character, control characters and invisible characters become
    escapes such as `\\xc3`, `\\n` and `\\u200b`.
    """
    text = token.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x80:
        return character.encode("unicode_escape").decode()
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # not \xa0, which stands for a byte


def show_tokens(tokenizer: Decoder, ids: Sequence[int], *, each: bool, color: bool) -> str:
    """The text of `ids` with visible token boundaries: background colors, or `·` between tokens. With `each`, one token
    per line, after its id. Special tokens are shown by name.
    """
    parts, at_start = [], True
    for index, token_id in enumerate(ids):
        token = tokenizer.decode_bytes([token_id])
        shown = visible(token)
        if color:
            style = f"\x1b[30;48;5;{COLORS[index % len(COLORS)]}m"
            shown = f"{SPECIAL if token_id >= len(tokenizer.ranks) else style}{shown}\x1b[0m"
        if each:
            parts.append(f"{token_id:>7}  {shown}\n")
            continue
        parts.append(shown if color or at_start else f"·{shown}")
        at_start = token.endswith(b"\n")
        if at_start:
            parts.append("\n")
    return "".join(parts).removesuffix("\n")
