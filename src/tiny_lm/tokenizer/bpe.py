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
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

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
LONGEST_RUN = 1 << 16  # characters of white space; tiktoken's regex engine fails somewhere under a million

_RANKS, _METADATA = "ranks.tiktoken", "metadata.json"
_MAX_RANKS, _MAX_METADATA = 256 << 20, 1 << 20  # bytes
_SPACES = (
    "\t\v\f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # \s without line ends; Python's has four more
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
        self._encoding = tiktoken.Encoding(
            "tiny-lm", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @cached_property
    def digest(self) -> str:
        facts = [PATTERNS[self.pattern], self.special_tokens, _sha256(_ranks_text(self.ranks))]
        return _sha256(json.dumps(facts).encode())

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The ids of a text; special tokens spelt out in it are ordinary text. ValueError for a lone surrogate."""
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start} of the text is U+{ord(text[error.start]):04X}, half of a surrogate pair: "
                "remove or replace it"
            ) from None
        except ValueError:  # the regex engine's stack, on a very long run of white space
            return self._encode_around_runs(text, LONGEST_RUN)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """The token stream `<bos> document <eos> <bos> document <eos> …` of at least one document."""
        bos, eos = "<bos>", "<eos>"
        stream = bos + (eos + bos).join(texts) + eos
        # One call for all documents, since calls cost much beside short documents. Exact: tiktoken encodes the text
        # between special tokens by itself, as long as these occur nowhere but where we put them.
        if stream.count(bos) == stream.count(eos) == len(texts):
            try:
                return self._encoding.encode_to_numpy(stream, allowed_special={bos, eos}, disallowed_special=())
            except ValueError:
                pass  # one of them needs the care that `encode` takes
        first, last = np.array([self.bos_id], np.uint32), np.array([self.eos_id], np.uint32)
        return np.concatenate([part for text in texts for part in (first, self.encode(text), last)])

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
        _write(folder / _RANKS, text)
        _write(folder / _METADATA, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads what `save` wrote. ValueError, in one line, for anything else."""
        path = folder / _METADATA
        try:
            metadata = json.loads(_read(path, _MAX_METADATA))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not readable as JSON ({error}); {_REMEDY}") from None
        keys = {"vocab_size", "pattern", "special_tokens", "ranks_sha256", "examples"}
        if not isinstance(metadata, dict) or metadata.keys() != keys:
            raise ValueError(f"{path}: must have exactly the keys {', '.join(sorted(keys))}; {_REMEDY}")
        if metadata["pattern"] not in list(PATTERNS):
            raise ValueError(
                f"{path}: pattern = {str(metadata['pattern'])[:80]!r}: must be one of {', '.join(PATTERNS)}"
            )
        text = _read(folder / _RANKS, _MAX_RANKS)
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

    def _encode_around_runs(self, text: str, longest: int) -> NDArray[np.uint32]:
        r"""The same ids as by the pattern, with every white-space run of `longest` characters and more taken by hand.

        Before a word, `\s+(?!\S)` makes one piece of the run but its last character; at the end of the text, of all
        of it. What stands before and after such a piece is split as if alone, since no pattern looks behind. Line ends
        belong to the run in the GPT-2 pattern; in the others `\s*[\r\n]+` takes a run that has one after it, by itself.
        """
        spaces = _SPACES + "\r\n" if self.pattern == "gpt2" else _SPACES
        parts, start = [], 0
        for run in re.finditer(f"[{spaces}]{{{min(longest, 64)},}}", text):  # a long minimum would be quadratic
            if len(run[0]) < longest or text[run.end() : run.end() + 1] in ("\r", "\n"):
                continue
            end = run.end() - (run.end() < len(text))
            parts.append(self._encoding.encode_to_numpy(text[start : run.start()], disallowed_special=()))
            parts.append(self._whole_piece.encode_to_numpy(text[run.start() : end]))
            start = end
        parts.append(self._encoding.encode_to_numpy(text[start:], disallowed_special=()))
        return np.concatenate(parts)

    @cached_property
    def _whole_piece(self) -> tiktoken.Encoding:
        return tiktoken.Encoding("piece", pat_str=r"[\s\S]+", mergeable_ranks=self.ranks, special_tokens={})


_REMEDY = "`dvc checkout models/tokenizer` or `dvc pull` brings it back, `dvc repro tokenizer` makes it"


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


def _read(path: Path, limit: int) -> bytes:
    """The file's bytes; ValueError where it is missing or larger than anything that we write."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {_REMEDY}")
    if path.stat().st_size > limit:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, must be at most {limit}; {_REMEDY}")
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
