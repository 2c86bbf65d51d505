"""Byte-level BPE: text to token ids and back, through `tiktoken`.

A text is split by a pattern into pieces, and the bytes of a piece are merged pair by pair in the order of their ranks
(Sennrich et al. 2016; Radford et al. 2019). Every byte is a token, so every text can be encoded and comes back exactly.
On disk a tokenizer is two text files: `ranks.tiktoken` in tiktoken's own format and `metadata.json`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from tiny_lm.config import read_bytes, read_json
from tiny_lm.files import write_whole

# A file says which pattern by name and brings none of its own. Contractions are spelt out instead of `(?i:…)`, whose
# Unicode folding differs between regex engines: tiktoken, rustbpe, Hugging Face and llama.cpp split alike.
_GPT4 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt4-digits2": _GPT4.replace("DIGITS", "2"),  # keeps newlines apart from words; digits in groups of at most two
    "llama3": _GPT4.replace("DIGITS", "3"),  # Llama 3's; `llama-bpe` in llama.cpp
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # `gpt-2` in llama.cpp
}
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # after the base vocabulary, in this order

_RANKS, _METADATA = "ranks.tiktoken", "metadata.json"
_MAX_RANKS, _MAX_METADATA = 256 << 20, 1 << 20  # bytes
_LOOK_AHEAD = r"\s+(?!\S)|"  # in every pattern: a run of white space leaves its last character to what follows
_CUT = "<unk>"  # never the id of a text, so free to mark places in one
_PART = 1 << 18  # characters of a long text that are looked through and encoded at a time
_SEAM = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")  # no piece of any pattern goes over it
_OTHER, _SPACE, _LINE_END = range(3)
_SPACES = (  # \s without line ends; Python's has four more
    "\t\v\f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Tokenizer:
    """A vocabulary of `ranks` (token bytes → id, which is also the merge order) and the four special tokens after it.

    `digest` is the SHA-256 of all that decides which ids a text gets.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        assert pattern in PATTERNS
        self.ranks = ranks
        self.pattern = pattern
        self.special_tokens = {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = self.special_tokens.values()
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        # Without the look-ahead, which `_cuts` replaces, the regex engine need not backtrack: it takes a third less
        # time, and copes with white space of any length.
        regular = PATTERNS[pattern].replace(_LOOK_AHEAD, "")
        self._encoding = tiktoken.Encoding(
            "tiny-lm", pat_str=regular, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @cached_property
    def digest(self) -> str:
        facts = [PATTERNS[self.pattern], self.special_tokens, _sha256(_ranks_text(self.ranks))]
        return _sha256(json.dumps(facts).encode())

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The ids of a text; special tokens spelt out in it are ordinary text. ValueError for a lone surrogate."""
        return np.concatenate([self._encode_part(start, part) for start, part in parts_of(text)])

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """The token stream `<bos> document <eos> <bos> document <eos> …` of at least one document."""
        bos, eos = "<bos>", "<eos>"
        stream = bos + (eos + bos).join(texts) + eos
        # One call for all documents, since calls cost much beside short documents. Exact: tiktoken encodes the text
        # between special tokens by itself, as long as these occur nowhere but where we put them.
        short = len(stream) < 2 * _PART
        if short and stream.count(bos) == stream.count(eos) == len(texts) and _CUT not in stream:
            cuts = [place for place in self._cuts(stream) if not stream.startswith(eos, place + 1)]
            return self._encode_between(stream, cuts, {bos, eos})
        first, last = np.array([self.bos_id], np.uint32), np.array([self.eos_id], np.uint32)
        return np.concatenate([part for text in texts for part in (first, self.encode(text), last)])

    def _encode_part(self, start: int, text: str) -> NDArray[np.uint32]:
        """The ids of a part that begins at the character `start` of a text."""
        cuts = self._cuts(text, start)
        if _CUT not in text:
            return self._encode_between(text, cuts, set())
        parts = _slices(text, cuts)
        return np.concatenate([self._encoding.encode_to_numpy(part, disallowed_special=()) for part in parts])

    def _encode_between(self, text: str, cuts: list[int], special: set[str]) -> NDArray[np.uint32]:
        """The ids of a text in which every occurrence of `special` is meant, cut at `cuts`; _CUT must not be in it."""
        marked = _CUT.join(_slices(text, cuts))
        ids = self._encoding.encode_to_numpy(marked, allowed_special={*special, _CUT}, disallowed_special=())
        return ids[ids != self.special_tokens[_CUT]] if cuts else ids

    def _cuts(self, text: str, before: int = 0) -> list[int]:
        r"""Where a text must be cut so that the pattern without its look-ahead splits it as the pattern does: before
        the last character of each run of white space, of two or more, that something else follows.

        What stands before and after a cut is split as if alone, since no pattern looks behind. Line ends belong to the
        run in the GPT-2 pattern; in the others `\s*[\r\n]+` takes a run that has one after it, by itself. A text may be
        a part of a longer one, with `before` characters before it.
        """
        cuts: list[int] = []
        for start in range(0, len(text), _PART):
            try:
                points = np.frombuffer(text[start : start + _PART + 2].encode("utf-32-le"), "<u4")
            except UnicodeEncodeError as error:
                place = start + error.start
                raise ValueError(
                    f"character {before + place} of the text is U+{ord(text[place]):04X}, half of a surrogate pair: "
                    "remove or replace it"
                ) from None
            kinds = self._kinds[np.minimum(points, len(self._kinds) - 1)]
            space = kinds == _SPACE
            cuts += (np.flatnonzero(space[:-2] & space[1:-1] & (kinds[2:] == _OTHER)) + start + 1).tolist()
        return cuts

    @cached_property
    def _kinds(self) -> NDArray[np.uint8]:
        """What each code point is, up to the last white space; at the end, what all after it are."""
        kinds = np.full(max(map(ord, _SPACES)) + 2, _OTHER, np.uint8)
        kinds[[*map(ord, _SPACES)]] = _SPACE
        kinds[[*map(ord, "\r\n")]] = _SPACE if self.pattern == "gpt2" else _LINE_END
        return kinds

    def decode_bytes(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """The bytes that the ids stand for; special tokens as they are spelt. ValueError for an id out of range."""
        numbers = np.asarray(ids, dtype=np.int64).tolist()
        for number in numbers:
            if not 0 <= number < self.vocab_size:
                raise ValueError(f"token id {number}: must be between 0 and {self.vocab_size - 1}")
        return self._encoding.decode_bytes(numbers)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """As text; bytes that are no UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Writes `ranks.tiktoken` and `metadata.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = _ranks_text(self.ranks)
        tokens = list(self.ranks)
        examples = {
            "first_merges": tokens[256:276],
            "last_merges": tokens[256:][-20:],
            "longest": sorted(tokens, key=len, reverse=True)[:20],
        }
        metadata = {
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "ranks_sha256": _sha256(text),
            "examples": {
                name: [t[:100].decode(errors="backslashreplace") for t in some] for name, some in examples.items()
            },
        }
        facts = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / _RANKS, lambda file: file.write(text))
        write_whole(folder / _METADATA, lambda file: file.write(facts.encode()))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads what `save` wrote. ValueError, in one line, for anything else."""
        path = folder / _METADATA
        metadata = read_json(path, _MAX_METADATA, _REMEDY)
        keys = {"vocab_size", "pattern", "special_tokens", "ranks_sha256", "examples"}
        if metadata.keys() != keys:
            raise ValueError(f"{path}: must have exactly the keys {', '.join(sorted(keys))}; {_REMEDY}")
        if metadata["pattern"] not in list(PATTERNS):
            raise ValueError(
                f"{path}: pattern = {str(metadata['pattern'])[:80]!r}: must be one of {', '.join(PATTERNS)}"
            )
        text = read_bytes(folder / _RANKS, _MAX_RANKS, _REMEDY)
        if metadata["ranks_sha256"] != _sha256(text):
            raise ValueError(f"{folder / _RANKS}: its checksum is not the one in {path}; {_REMEDY}")
        tokenizer = cls(_parse_ranks(folder / _RANKS, text), metadata["pattern"])
        for key in ("vocab_size", "special_tokens"):
            if metadata[key] != getattr(tokenizer, key):
                raise ValueError(
                    f"{path}: {key} = {str(metadata[key])[:80]}: must be {getattr(tokenizer, key)}, after the "
                    f"{len(tokenizer.ranks)} tokens of {_RANKS}; {_REMEDY}"
                )
        return tokenizer


_REMEDY = "`tiny-lm restore tokenizer` or `dvc pull` brings it back, `dvc repro tokenizer` makes it"


def parts_of(text: str, size: int = _PART) -> Iterator[tuple[int, str]]:
    """(start, part): a long text in parts of about `size` characters, between which no pattern's piece lies."""
    start = 0
    while seam := _SEAM.search(text, start + size):
        yield start, text[start : seam.start()]
        start = seam.start()
    yield start, text[start:]


def _slices(text: str, places: list[int]) -> list[str]:
    """The text cut at `places`, which are in order."""
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]


def _ranks_text(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def _parse_ranks(path: Path, text: bytes) -> dict[bytes, int]:
    """Ranks 0, 1, 2, … in order, every token once, every single byte among them; else ValueError."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines()):
        token, _, rank = line.partition(b" ")
        try:
            decoded = base64.b64decode(token, validate=True)
        except binascii.Error:
            decoded = b""
        if not decoded or decoded in ranks or rank != b"%d" % number:
            raise ValueError(
                f"{path}, line {number + 1}: must be a new token in base64 and its rank {number}; {_REMEDY}"
            )
        ranks[decoded] = number
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{path}: must have all 256 single bytes among its tokens; {_REMEDY}")
    return ranks


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
