"""Byte-level BPE: text to token ids and back, with `tiktoken`.

A pattern splits a text into chunks, and the bytes of each chunk are merged pair by pair, in the order of their ranks
(Sennrich et al. 2016; Radford et al. 2019). Every byte is a token, so every text can be encoded and decoded exactly.
On disk, a tokenizer is two text files: `ranks.tiktoken`, in tiktoken's format, and `metadata.json`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from tiny_lm.io.files import read_bytes, read_json, write_whole
from tiny_lm.tokenizer.patterns import LOOK_AHEAD, PART, PATTERNS, SPECIAL_TOKENS, parts_of

_RANKS, _METADATA = "ranks.tiktoken", "metadata.json"
_MAX_RANKS, _MAX_METADATA = 256 << 20, 1 << 20  # bytes
_REMEDY = "`tiny-lm restore tokenizer` or `dvc pull` restores it, `dvc repro tokenizer` rebuilds it"
_CUT = "<unk>"  # no text is encoded to it, so it can mark positions in a text
_OTHER, _SPACE, _LINE_END = range(3)
_SPACES = (  # \s without line ends; Python's has four more
    "\t\v\f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class Tokenizer:
    """`ranks` (token bytes → id, which is also the merge order), followed by the four special tokens.

    `digest` is the SHA-256 of everything that determines the ids of a text.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        assert pattern in PATTERNS
        self.ranks = ranks
        self.pattern = pattern
        self.special_tokens = {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = self.special_tokens.values()
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        # Without the look-ahead, which `_cuts` replaces, the regex engine does not backtrack: it is a third faster and
        # handles white space of any length.
        regular = PATTERNS[pattern].replace(LOOK_AHEAD, "")
        self._encoding = tiktoken.Encoding(
            "tiny-lm", pat_str=regular, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @property
    def special_ids(self) -> dict[str, int]:
        return {"pad": self.pad_id, "eos": self.eos_id, "bos": self.bos_id, "unk": self.unk_id}

    @cached_property
    def digest(self) -> str:
        content = [PATTERNS[self.pattern], self.special_tokens, _sha256(_ranks_text(self.ranks))]
        return _sha256(json.dumps(content).encode())

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The ids of a text; special tokens in it are ordinary text. Raises ValueError for a lone surrogate."""
        return np.concatenate([self._encode_part(start, part) for start, part in parts_of(text)])

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """The token stream `<bos> document <eos> <bos> document <eos> …` of at least one document."""
        bos, eos = "<bos>", "<eos>"
        # One call for all documents, because a call is expensive compared with a short document. The ids are the same:
        # tiktoken encodes the text between special tokens separately, if they occur only where we put them.
        short = sum(map(len, texts)) + len(bos + eos) * len(texts) < 2 * PART
        stream = bos + (eos + bos).join(texts) + eos if short else ""
        if short and stream.count(bos) == stream.count(eos) == len(texts) and _CUT not in stream:
            cuts = [cut for cut in self._cuts(stream) if not stream.startswith(eos, cut + 1)]
            return self._encode_between(stream, cuts, {bos, eos})
        first, last = np.array([self.bos_id], np.uint32), np.array([self.eos_id], np.uint32)
        return np.concatenate([part for text in texts for part in (first, self.encode(text), last)])

    def _encode_part(self, start: int, text: str) -> NDArray[np.uint32]:
        """The ids of the part of a text that begins at character `start`."""
        cuts = self._cuts(text, start)
        if _CUT not in text:
            return self._encode_between(text, cuts, set())
        parts = _slices(text, cuts)
        return np.concatenate([self._encoding.encode_to_numpy(part, disallowed_special=()) for part in parts])

    def _encode_between(self, text: str, cuts: list[int], special: set[str]) -> NDArray[np.uint32]:
        """The ids of a text cut at `cuts`, in which `special` are special tokens. It must not contain _CUT."""
        marked = _CUT.join(_slices(text, cuts))
        ids = self._encoding.encode_to_numpy(marked, allowed_special={*special, _CUT}, disallowed_special=())
        return ids[ids != self.special_tokens[_CUT]] if cuts else ids

    def _cuts(self, text: str, before: int = 0) -> list[int]:
        r"""Where to cut a text so that the pattern without its look-ahead splits it like the full pattern: before the
        last character of each run of two or more white-space characters, if something else follows the run.

        The text on each side of a cut is split independently, since no pattern looks behind. In the GPT-2 pattern, line
        ends belong to the run; in the others, `\s*[\r\n]+` matches a run that ends with one. `before` is the number of
        characters before this text, if it is part of a longer one.
        """
        cuts: list[int] = []
        for start in range(0, len(text), PART):
            try:
                points = np.frombuffer(text[start : start + PART + 2].encode("utf-32-le"), "<u4")
            except UnicodeEncodeError as error:
                position = start + error.start
                raise ValueError(
                    f"character {before + position} of the text is a lone surrogate (U+{ord(text[position]):04X}); "
                    "remove or replace it"
                ) from None
            kinds = self._kinds[np.minimum(points, len(self._kinds) - 1)]
            space = kinds == _SPACE
            cuts += (np.flatnonzero(space[:-2] & space[1:-1] & (kinds[2:] == _OTHER)) + start + 1).tolist()
        return cuts

    @cached_property
    def _kinds(self) -> NDArray[np.uint8]:
        """The kind of each code point up to the last white-space character; the last item is for all others."""
        kinds = np.full(max(map(ord, _SPACES)) + 2, _OTHER, np.uint8)
        kinds[[*map(ord, _SPACES)]] = _SPACE
        kinds[[*map(ord, "\r\n")]] = _SPACE if self.pattern == "gpt2" else _LINE_END
        return kinds

    def decode_bytes(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """The bytes of the ids, with special tokens as text. Raises ValueError for an id out of range."""
        numbers = np.asarray(ids, dtype=np.int64).tolist()
        for number in numbers:
            if not 0 <= number < self.vocab_size:
                raise ValueError(f"token id {number}: must be between 0 and {self.vocab_size - 1}")
        return self._encoding.decode_bytes(numbers)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of the ids; bytes that are not UTF-8, such as half a character, become U+FFFD."""
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
                name: [token[:100].decode(errors="backslashreplace") for token in group]
                for name, group in examples.items()
            },
        }
        metadata_text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / _RANKS, lambda file: file.write(text))
        write_whole(folder / _METADATA, lambda file: file.write(metadata_text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads what `save` wrote. Raises ValueError, in one line, for anything else."""
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
            raise ValueError(f"checksum mismatch: {folder / _RANKS} does not match {path}; {_REMEDY}")
        tokenizer = cls(_parse_ranks(folder / _RANKS, text), metadata["pattern"])
        for key in ("vocab_size", "special_tokens"):
            if metadata[key] != getattr(tokenizer, key):
                raise ValueError(
                    f"{path}: {key} = {str(metadata[key])[:80]}: must be {getattr(tokenizer, key)}, after the "
                    f"{len(tokenizer.ranks)} tokens of {_RANKS}; {_REMEDY}"
                )
        return tokenizer


def _slices(text: str, cuts: list[int]) -> list[str]:
    """The text cut at `cuts`, which must be ascending."""
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def _ranks_text(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def _parse_ranks(path: Path, text: bytes) -> dict[bytes, int]:
    """Raises ValueError unless the ranks are 0, 1, 2, … and the tokens unique, with all single bytes among them."""
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
