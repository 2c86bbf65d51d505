"""How text is split before merging: named patterns, and what all of them have in common.

A tokenizer's metadata names one of these patterns and never contains its own. Contractions are written out instead of
`(?i:…)`, whose Unicode folding differs between regex engines, so that tiktoken, rustbpe, Hugging Face and llama.cpp
split alike.
"""

import re
from collections.abc import Iterator

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
LOOK_AHEAD = r"\s+(?!\S)|"  # in every pattern: a run of white space leaves its last character to what follows

PART = 1 << 18  # characters of a long text that are encoded at a time
_SEAM = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")  # no match of any pattern crosses it


def parts_of(text: str, size: int = PART) -> Iterator[tuple[int, str]]:
    """(start, part): a long text in parts of about `size` characters, cut where no match of a pattern is cut."""
    start = 0
    while seam := _SEAM.search(text, start + size):
        yield start, text[start : seam.start()]
        start = seam.start()
    yield start, text[start:]
