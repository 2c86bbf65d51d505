"""Split patterns (pre-tokenization): how a text is split into chunks before merging.

A tokenizer's metadata names one of these patterns and never contains its own. Contractions are written out instead of
`(?i:…)`, whose Unicode folding differs between regex engines, so that tiktoken, rustbpe, Hugging Face and llama.cpp
split identically.
"""

import re
from collections.abc import Iterator

_GPT4 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt4-digits2": _GPT4.replace("DIGITS", "2"),  # separates newlines from words; digits in groups of at most two
    "llama3": _GPT4.replace("DIGITS", "3"),  # Llama 3's; `llama-bpe` in llama.cpp
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # `gpt-2` in llama.cpp
}
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # after the base vocabulary, in this order
LOOK_AHEAD = r"\s+(?!\S)|"  # in every pattern: the last character of a white-space run goes with what follows

PART = 1 << 18  # characters of a long text that are encoded at a time
_BOUNDARY = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")  # no match of a pattern crosses it


def parts_of(text: str, size: int = PART) -> Iterator[tuple[int, str]]:
    """Yields (start, part): the text in parts of about `size` characters, cut only between matches of a pattern."""
    start = 0
    while boundary := _BOUNDARY.search(text, start + size):
        yield start, text[start : boundary.start()]
        start = boundary.start()
    yield start, text[start:]
