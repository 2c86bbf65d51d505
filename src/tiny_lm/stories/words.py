"""The words and plots of the stories, read from the text files in this folder, which describe their format."""

import re
from pathlib import Path


def read_sections(file: str) -> dict[str, str]:
    """The blocks of text below lines `# name` or `# name: comment`, by name."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    _, *parts = re.split(r"^# ([\w ]+).*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[0::2], parts[1::2], strict=True))


def items(block: str) -> list[str]:
    """The items of a block: each on its own line, continued on indented lines, or after a semicolon."""
    return [" ".join(item.split()) for item in re.split(r"\n(?! )|; ", block.strip())]


def table(block: str) -> list[list[str]]:
    """Items with columns between colons."""
    return [re.split(r" *: *", item) for item in items(block)]


_WORDS = read_sections("words.txt")


def _list(section: str) -> list[str]:
    """Words between commas."""
    return " ".join(_WORDS[section].split()).split(", ")


GIRLS, BOYS = _WORDS["girls"].split(), _WORDS["boys"].split()
FREQUENT_GIRLS, FREQUENT_BOYS = _WORDS["frequent girls"].split(), _WORDS["frequent boys"].split()
FAMILY = [(name, pronoun == "he") for name, pronoun in table(_WORDS["family"])]
NEIGHBORS = [
    (f"{title} {name}", title == "Mr.") for name in _WORDS["surnames"].split() for title in ("Mrs.", "Mr.", "Miss")
]

TRAITS, SIZES, ANIMALS, NUMBERS = _list("traits"), _list("sizes"), _list("animals"), _list("numbers")
FOODS, GOODS, LANDMARKS, SHELTERS = _list("foods"), _list("goods"), _list("landmarks"), _list("shelters")
TOOLS, TARGETS = _list("tools"), _list("targets")

COLORS = dict(table(_WORDS["colors"]))  # and what has that color
THINGS = {noun: (does, part) for noun, does, part in table(_WORDS["things"])}
SETTINGS, WEATHER, FEARS, HURTS, DUE, PROJECTS = (
    table(_WORDS[section]) for section in ("settings", "weather", "fears", "hurts", "due", "projects")
)
